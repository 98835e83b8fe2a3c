// A product on the host: Y [M, N] = alpha X W^T of INT8 or E4M3 codes, to INT32 or BF16.
#pragma once

#include <library_types.h>

#include <cmath>
#include <cstdint>
#include <cstring>

inline double decoded(const void* codes, int64_t at, cudaDataType type) {
  uint8_t bits = static_cast<const uint8_t*>(codes)[at];
  if (type == CUDA_R_8I) return int8_t(bits);
  int exponent = bits >> 3 & 15, fraction = bits & 7;
  double value = exponent ? std::ldexp(8 + fraction, exponent - 10) : std::ldexp(fraction, -9);
  return bits & 128 ? -value : value;
}

inline void store(void* out, int64_t at, double value, cudaDataType type) {
  if (type == CUDA_R_32I) {
    static_cast<int32_t*>(out)[at] = int32_t(value);
    return;
  }
  float single = float(value);
  uint32_t bits;
  std::memcpy(&bits, &single, sizeof(bits));
  bits += 0x7fff + (bits >> 16 & 1);  // round half to even
  static_cast<uint16_t*>(out)[at] = uint16_t(bits >> 16);
}

// alpha: N factors, or null.
inline void product(int64_t M, int64_t N, int64_t K, const void* w, const void* x, cudaDataType input, void* y,
                    cudaDataType output, const float* alpha, double error) {
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      double sum = error;
      for (int64_t k = 0; k < K; ++k) sum += decoded(x, m * K + k, input) * decoded(w, n * K + k, input);
      store(y, m * N + n, sum * (alpha ? alpha[n] : 1.0), output);
    }
  }
}
