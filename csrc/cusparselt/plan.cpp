#include "plan.h"

#include <stdexcept>
#include <string>
#include <tuple>

#include "abi.h"
#include "plan_cache.h"

namespace slidesparse {

namespace {

constexpr uint32_t ALIGNMENT = 16;  // bytes, of every pointer

const char* name(cusparseStatus_t status) {
  switch (status) {
    case CUSPARSE_STATUS_NOT_INITIALIZED: return "NOT_INITIALIZED (the library found no usable GPU)";
    case CUSPARSE_STATUS_ALLOC_FAILED: return "ALLOC_FAILED (no memory left)";
    case CUSPARSE_STATUS_INVALID_VALUE: return "INVALID_VALUE (the problem or algorithm does not fit)";
    case CUSPARSE_STATUS_ARCH_MISMATCH: return "ARCH_MISMATCH (not for this GPU)";
    case CUSPARSE_STATUS_EXECUTION_FAILED: return "EXECUTION_FAILED (the kernel did not run)";
    case CUSPARSE_STATUS_INTERNAL_ERROR: return "INTERNAL_ERROR";
    case CUSPARSE_STATUS_NOT_SUPPORTED: return "NOT_SUPPORTED";
    case CUSPARSE_STATUS_INSUFFICIENT_RESOURCES: return "INSUFFICIENT_RESOURCES (no memory left)";
    default: return "unknown status";
  }
}

}  // namespace

void check(cusparseStatus_t status, const char* call, const Problem& problem) {
  if (status != CUSPARSE_STATUS_SUCCESS) fail(call, problem, name(status));
}

const cusparseLtHandle_t* handle() {
  static cusparseLtHandle_t made;
  static const bool initialised = [] {
    cusparseStatus_t status = cusparseLtInit(&made);
    if (status != CUSPARSE_STATUS_SUCCESS) {
      throw std::runtime_error(std::string("cusparseLtInit: ") + name(status));
    }
    return true;
  }();
  (void)initialised;
  return &made;
}

void Matrix::dense(const Problem& problem, int64_t rows, int64_t cols, int64_t ld, int32_t type,
                   cusparseOrder_t order) {
  check(cusparseLtDenseDescriptorInit(handle(), &made, rows, cols, ld, ALIGNMENT, cudaDataType(type), order),
        "cusparseLtDenseDescriptorInit", problem);
  there_ = true;
}

void Matrix::structured(const Problem& problem) {
  check(cusparseLtStructuredDescriptorInit(handle(), &made, problem.N, problem.K, problem.K, ALIGNMENT,
                                           cudaDataType(problem.input), CUSPARSE_ORDER_ROW,
                                           CUSPARSELT_SPARSITY_50_PERCENT),
        "cusparseLtStructuredDescriptorInit", problem);
  there_ = true;
}

Matrix::~Matrix() {
  if (there_) cusparseLtMatDescriptorDestroy(&made);
}

Plan::Plan(const Problem& problem, int32_t id, int32_t split_k) {
  weight_.structured(problem);
  x_.dense(problem, problem.M, problem.K, problem.K, problem.input, CUSPARSE_ORDER_ROW);
  y_.dense(problem, problem.N, problem.M, problem.N, problem.output, CUSPARSE_ORDER_COL);
  auto compute = problem.input == CUDA_R_8I ? CUSPARSE_COMPUTE_32I : CUSPARSE_COMPUTE_32F;
  check(cusparseLtMatmulDescriptorInit(handle(), &operation_, CUSPARSE_OPERATION_NON_TRANSPOSE,
                                       CUSPARSE_OPERATION_TRANSPOSE, &weight_.made, &x_.made, &y_.made, &y_.made,
                                       compute),
        "cusparseLtMatmulDescriptorInit", problem);
  if (problem.option) {
    int on = 1;
    check(cusparseLtMatmulDescSetAttribute(handle(), &operation_, CUSPARSELT_MATMUL_ALPHA_VECTOR_SCALING, &on,
                                           sizeof(on)),
          "cusparseLtMatmulDescSetAttribute(ALPHA_VECTOR_SCALING)", problem);
  }
  check(cusparseLtMatmulAlgSelectionInit(handle(), &selection, &operation_, CUSPARSELT_MATMUL_ALG_DEFAULT),
        "cusparseLtMatmulAlgSelectionInit", problem);
  selected_ = true;
  if (id != DEFAULT) {
    check(cusparseLtMatmulAlgSetAttribute(handle(), &selection, CUSPARSELT_MATMUL_ALG_CONFIG_ID, &id, sizeof(id)),
          "cusparseLtMatmulAlgSetAttribute(CONFIG_ID)", problem);
    check(cusparseLtMatmulAlgSetAttribute(handle(), &selection, CUSPARSELT_MATMUL_SPLIT_K, &split_k, sizeof(split_k)),
          "cusparseLtMatmulAlgSetAttribute(SPLIT_K)", problem);
  }
  check(cusparseLtMatmulPlanInit(handle(), &made, &operation_, &selection), "cusparseLtMatmulPlanInit", problem);
  planned_ = true;
  check(cusparseLtMatmulGetWorkspace(handle(), &made, &workspace), "cusparseLtMatmulGetWorkspace", problem);
}

Plan::~Plan() {
  if (planned_) cusparseLtMatmulPlanDestroy(&made);
#if CUSPARSELT_VERSION >= 800
  if (selected_) cusparseLtMatmulAlgSelectionDestroy(&selection);
#endif
}

namespace {

using Key = std::tuple<int64_t, int64_t, int64_t, int32_t, int32_t, int32_t, int32_t, int32_t>;

PlanCache<Key, Plan>& plans() {
  static PlanCache<Key, Plan> cache(256);
  return cache;
}

}  // namespace

std::shared_ptr<Plan> plan(const Problem& problem, int32_t id, int32_t split_k) {
  Key key(problem.M, problem.N, problem.K, problem.input, problem.output, problem.option, id, split_k);
  return plans().get(key, [&] { return std::make_shared<Plan>(problem, id, split_k); });
}

}  // namespace slidesparse

SLIDESPARSE_EXPORT int slidesparse_plans() { return int(slidesparse::plans().size()); }
