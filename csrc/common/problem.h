// One product as Python passes it. Mirrored by gemm/library.py.
#pragma once

#include <library_types.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

// Y [M, N] = X [M, K] W [N, K]^T, all row-major. Types are cudaDataType numbers.
struct Problem {
  int64_t M, N, K;
  int32_t input, output;
  int32_t option;  // cuBLASLt: fast accumulation of FP8. cuSPARSELt: one factor alpha for each output channel
};

namespace slidesparse {

inline const char* type_name(int32_t type) {
  switch (type) {
    case CUDA_R_8I: return "INT8";
    case CUDA_R_8F_E4M3: return "E4M3";
    case CUDA_R_32I: return "INT32";
    case CUDA_R_16BF: return "BF16";
    default: return "unknown type";
  }
}

// Throws the sentence of a call that failed.
[[noreturn]] inline void fail(const char* call, const Problem& problem, const std::string& reason) {
  std::ostringstream text;
  text << call << " for M=" << problem.M << " N=" << problem.N << " K=" << problem.K << " " << type_name(problem.input)
       << " to " << type_name(problem.output) << ": " << reason;
  throw std::runtime_error(text.str());
}

inline void require_workspace(const char* call, const Problem& problem, uint64_t needed, uint64_t given) {
  if (given < needed) {
    fail(call, problem, "it needs " + std::to_string(needed) + " bytes of workspace and was given " +
                            std::to_string(given));
  }
}

}  // namespace slidesparse
