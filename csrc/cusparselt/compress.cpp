// Dense 2:4 codes [N, K] into the library's compressed form, which serves every M and every algorithm.
#include "abi.h"
#include "plan.h"

using namespace slidesparse;

// Bytes of the compressed weight, and of the buffer that compressing it needs. Of the problem N, K and `input` count.
SLIDESPARSE_EXPORT int slidesparse_compressed_size(const Problem* problem, uint64_t* bytes, uint64_t* buffer_bytes) {
  return guarded([&] {
    Matrix weight;
    weight.structured(*problem);
    std::size_t size = 0, buffer = 0;
    check(cusparseLtSpMMACompressedSize2(handle(), &weight.made, &size, &buffer), "cusparseLtSpMMACompressedSize2",
          *problem);
    *bytes = size;
    *buffer_bytes = buffer;
  });
}

// Writes 0 to `invalid` (device memory) if the codes are 2:4, on `stream`.
SLIDESPARSE_EXPORT int slidesparse_check_pattern(const Problem* problem, const void* codes, int* invalid,
                                                 void* stream) {
  return guarded([&] {
    Matrix weight;
    weight.structured(*problem);
    check(cusparseLtSpMMAPruneCheck2(handle(), &weight.made, 1, CUSPARSE_OPERATION_NON_TRANSPOSE, codes, invalid,
                                     static_cast<cudaStream_t>(stream)),
          "cusparseLtSpMMAPruneCheck2", *problem);
  });
}

SLIDESPARSE_EXPORT int slidesparse_compress(const Problem* problem, const void* codes, void* compressed, void* buffer,
                                            void* stream) {
  return guarded([&] {
    Matrix weight;
    weight.structured(*problem);
    check(cusparseLtSpMMACompress2(handle(), &weight.made, 1, CUSPARSE_OPERATION_NON_TRANSPOSE, codes, compressed,
                                   buffer, static_cast<cudaStream_t>(stream)),
          "cusparseLtSpMMACompress2", *problem);
  });
}
