#include "plan.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>

#include "abi.h"
#include "plan_cache.h"

namespace slidesparse {

namespace {

const char* name(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_NOT_INITIALIZED: return "NOT_INITIALIZED (the library found no usable GPU)";
    case CUBLAS_STATUS_ALLOC_FAILED: return "ALLOC_FAILED (no memory left)";
    case CUBLAS_STATUS_INVALID_VALUE: return "INVALID_VALUE (the problem or algorithm does not fit)";
    case CUBLAS_STATUS_ARCH_MISMATCH: return "ARCH_MISMATCH (not for this GPU)";
    case CUBLAS_STATUS_MAPPING_ERROR: return "MAPPING_ERROR";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "EXECUTION_FAILED (the kernel did not run)";
    case CUBLAS_STATUS_INTERNAL_ERROR: return "INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "NOT_SUPPORTED";
    default: return "unknown status";
  }
}

void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const void* value, std::size_t size,
         const Problem& problem) {
  check(cublasLtMatmulDescSetAttribute(operation, attribute, value, size), "cublasLtMatmulDescSetAttribute", problem);
}

}  // namespace

void check(cublasStatus_t status, const char* call, const Problem& problem) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(call, problem, name(status));
}

cublasLtHandle_t handle() {
  static cublasLtHandle_t made = [] {
    cublasLtHandle_t created = nullptr;
    cublasStatus_t status = cublasLtCreate(&created);
    if (status != CUBLAS_STATUS_SUCCESS) {
      throw std::runtime_error(std::string("cublasLtCreate: ") + name(status));
    }
    return created;
  }();
  return made;
}

Descriptors::Descriptors(const Problem& problem)
    : input(cudaDataType_t(problem.input)), output(cudaDataType_t(problem.output)) {
  bool integer = input == CUDA_R_8I;
  compute = integer ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F;
  scale = integer ? CUDA_R_32I : CUDA_R_32F;
  check(cublasLtMatmulDescCreate(&operation, compute, scale), "cublasLtMatmulDescCreate", problem);
  cublasOperation_t transposed = CUBLAS_OP_T;
  set(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed), problem);
  if (!integer) {
    int8_t fast = problem.option != 0;
    set(operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof(fast), problem);
  }
  check(cublasLtMatrixLayoutCreate(&weight, input, problem.K, problem.N, problem.K), "cublasLtMatrixLayoutCreate",
        problem);
  check(cublasLtMatrixLayoutCreate(&x, input, problem.K, problem.M, problem.K), "cublasLtMatrixLayoutCreate", problem);
  check(cublasLtMatrixLayoutCreate(&y, output, problem.N, problem.M, problem.N), "cublasLtMatrixLayoutCreate", problem);
}

Descriptors::~Descriptors() {
  if (y) cublasLtMatrixLayoutDestroy(y);
  if (x) cublasLtMatrixLayoutDestroy(x);
  if (weight) cublasLtMatrixLayoutDestroy(weight);
  if (operation) cublasLtMatmulDescDestroy(operation);
}

namespace {

using Key = std::tuple<int64_t, int64_t, int64_t, int32_t, int32_t, int32_t, Algorithm>;

PlanCache<Key, Plan>& plans() {
  static PlanCache<Key, Plan> cache(1024);
  return cache;
}

}  // namespace

std::shared_ptr<Plan> plan(const Problem& problem, const Algorithm& algorithm) {
  Key key(problem.M, problem.N, problem.K, problem.input, problem.output, problem.option, algorithm);
  return plans().get(key, [&] {
    auto made = std::shared_ptr<Plan>(new Plan{Descriptors(problem), {}, 0});
    std::copy(algorithm.begin(), algorithm.end(), made->algorithm.data);
    const Descriptors& d = made->descriptors;
    cublasLtMatmulHeuristicResult_t result = {};
    check(cublasLtMatmulAlgoCheck(handle(), d.operation, d.weight, d.x, d.y, d.y, &made->algorithm, &result),
          "cublasLtMatmulAlgoCheck", problem);
    made->workspace = result.workspaceSize;
    return made;
  });
}

}  // namespace slidesparse

SLIDESPARSE_EXPORT int slidesparse_plans() { return int(slidesparse::plans().size()); }
