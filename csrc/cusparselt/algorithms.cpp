// How many algorithms there are, which one the library takes by itself, and which one its own search finds.
#include "abi.h"
#include "plan.h"

using namespace slidesparse;

// `count` ids, 0 to count - 1, and the id that the library takes unless told otherwise.
SLIDESPARSE_EXPORT int slidesparse_algorithms(const Problem* problem, int32_t* count, int32_t* preset) {
  return guarded([&] {
    auto made = plan(*problem, DEFAULT, 1);
    *count = selected<int32_t>(*made, CUSPARSELT_MATMUL_ALG_CONFIG_MAX_ID, *problem);
    *preset = selected<int32_t>(*made, CUSPARSELT_MATMUL_ALG_CONFIG_ID, *problem);
  });
}

// What cusparseLtMatmulSearch finds by running its candidates on the given buffers. Waits for the GPU.
SLIDESPARSE_EXPORT int slidesparse_search(const Problem* problem, const void* weight, const void* x, void* y,
                                          const void* alpha, void* workspace, void* stream, int32_t* id,
                                          int32_t* split_k) {
  return guarded([&] {
    Plan own(*problem, DEFAULT, 1);  // the search changes the plan, so it is not one of the cache
    float beta = 0;
    auto queue = static_cast<cudaStream_t>(stream);
    check(cusparseLtMatmulSearch(handle(), &own.made, alpha, weight, x, &beta, y, y, workspace, &queue, 1),
          "cusparseLtMatmulSearch", *problem);
    *id = selected<int32_t>(own, CUSPARSELT_MATMUL_ALG_CONFIG_ID, *problem);
    *split_k = selected<int32_t>(own, CUSPARSELT_MATMUL_SPLIT_K, *problem);
  });
}
