// Version, workspace and execution.
#include "abi.h"
#include "plan.h"

using namespace slidesparse;

SLIDESPARSE_EXPORT const char* slidesparse_last_error() { return last_error().c_str(); }

// The sizes of the library's objects differ between versions: compare before anything else is called.
SLIDESPARSE_EXPORT void slidesparse_version(int64_t* compiled, int64_t* loaded) {
  int major = 0, minor = 0, patch = 0;
  cusparseLtGetProperty(MAJOR_VERSION, &major);
  cusparseLtGetProperty(MINOR_VERSION, &minor);
  cusparseLtGetProperty(PATCH_LEVEL, &patch);
  *compiled = CUSPARSELT_VER_MAJOR * 10000 + CUSPARSELT_VER_MINOR * 100 + CUSPARSELT_VER_PATCH;
  *loaded = major * 10000 + minor * 100 + patch;
}

// Bytes of workspace that the algorithm needs for the problem. Makes its plan: call it before a graph is captured.
SLIDESPARSE_EXPORT int slidesparse_workspace(const Problem* problem, int32_t id, int32_t split_k, uint64_t* bytes) {
  return guarded([&] { *bytes = plan(*problem, id, split_k)->workspace; });
}

// Launches Y = alpha X W^T on `stream`. alpha: one float in host memory, or N in device memory if the problem says so.
// Neither allocates nor waits.
SLIDESPARSE_EXPORT int slidesparse_matmul(const Problem* problem, int32_t id, int32_t split_k, const void* weight,
                                          const void* x, void* y, const void* alpha, void* workspace, uint64_t bytes,
                                          void* stream) {
  return guarded([&] {
    auto made = plan(*problem, id, split_k);
    require_workspace("cusparseLtMatmul", *problem, made->workspace, bytes);
    float beta = 0;
    auto queue = static_cast<cudaStream_t>(stream);
    check(cusparseLtMatmul(handle(), &made->made, alpha, weight, x, &beta, y, y, workspace, &queue, 1),
          "cusparseLtMatmul", *problem);
  });
}
