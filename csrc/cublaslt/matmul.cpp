// Version, workspace and execution.
#include "abi.h"
#include "plan.h"

using namespace slidesparse;

SLIDESPARSE_EXPORT const char* slidesparse_last_error() { return last_error().c_str(); }

SLIDESPARSE_EXPORT void slidesparse_version(int64_t* compiled, int64_t* loaded) {
  *compiled = CUBLAS_VERSION;
  *loaded = int64_t(cublasLtGetVersion());
}

// Bytes of workspace that the algorithm needs for the problem. Makes its plan: call it before a graph is captured.
SLIDESPARSE_EXPORT int slidesparse_workspace(const Problem* problem, const Algorithm* algorithm, uint64_t* bytes) {
  return guarded([&] { *bytes = plan(*problem, *algorithm)->workspace; });
}

// Launches Y = X W^T on `stream`. Neither allocates nor waits.
SLIDESPARSE_EXPORT int slidesparse_matmul(const Problem* problem, const Algorithm* algorithm, const void* weight,
                                          const void* x, void* y, void* workspace, uint64_t bytes, void* stream) {
  return guarded([&] {
    auto made = plan(*problem, *algorithm);
    require_workspace("cublasLtMatmul", *problem, made->workspace, bytes);
    const Descriptors& d = made->descriptors;
    int32_t one_i = 1, zero_i = 0;
    float one_f = 1, zero_f = 0;
    bool integer = d.scale == CUDA_R_32I;
    const void* alpha = integer ? static_cast<const void*>(&one_i) : &one_f;
    const void* beta = integer ? static_cast<const void*>(&zero_i) : &zero_f;
    check(cublasLtMatmul(handle(), d.operation, alpha, weight, d.weight, x, d.x, beta, y, d.y, y, d.y, &made->algorithm,
                         workspace, bytes, static_cast<cudaStream_t>(stream)),
          "cublasLtMatmul", *problem);
  });
}
