// One product of cuBLASLt: its descriptors, and the cache of them.
#pragma once

#include <cublasLt.h>

#include <array>
#include <cstdint>
#include <memory>

#include "problem.h"

namespace slidesparse {

using Algorithm = std::array<uint64_t, 8>;  // the 64 opaque bytes of cublasLtMatmulAlgo_t
static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t), "the opaque algorithm is 64 bytes");

cublasLtHandle_t handle();

// Throws a sentence that names call, problem and status, unless `status` is success.
void check(cublasStatus_t status, const char* call, const Problem& problem);

// cuBLASLt is column-major: Y^T [N, M] = W X^T with W and X as they lie, so A is W transposed and B is X.
struct Descriptors {
  explicit Descriptors(const Problem& problem);
  ~Descriptors();
  Descriptors(const Descriptors&) = delete;

  cublasComputeType_t compute;
  cudaDataType_t scale, input, output;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, x = nullptr, y = nullptr;
};

struct Plan {
  Descriptors descriptors;
  cublasLtMatmulAlgo_t algorithm;
  std::size_t workspace;
};

// The plan of a problem and an algorithm, checked by the library once and kept.
std::shared_ptr<Plan> plan(const Problem& problem, const Algorithm& algorithm);

}  // namespace slidesparse
