// A stand-in for the kernels of csrc/cutlass_sparse: products on the host of what menu.h says that lies in memory.
#include <cmath>
#include <string>
#include <vector>

#include "menu.h"
#include "product.h"

namespace {

using namespace slidesparse;

void prepare(const Problem& problem) {
  if (problem.N > 1 << 20) fail("stand-in", problem, "no kernel is that wide");
}

void run(const Problem& problem, const Operands& operands, cudaStream_t) {
  const auto* kept = static_cast<const uint8_t*>(operands.values);
  const auto* lanes = static_cast<const uint8_t*>(operands.metadata);
  const int64_t rows = (problem.N + METADATA_ROWS - 1) / METADATA_ROWS * METADATA_ROWS;
  std::vector<uint8_t> codes(problem.N * problem.K);
  for (int64_t n = 0; n < problem.N; ++n) {
    for (int64_t at = 0; at < problem.K / 2; ++at) {  // two kept codes of every four, two bits for the place of each
      const int64_t k = at / 2 * 4;
      const uint8_t byte = lanes[(k / 128 * rows + n) * 16 + k % 128 / 8];
      const int place = byte >> (k % 8 + at % 2 * 2) & 3;
      codes[n * problem.K + k + place] |= kept[n * (problem.K / 2) + at];
    }
  }
  std::vector<int32_t> sums(problem.M * problem.N);
  const auto input = cudaDataType(problem.input), output = cudaDataType(problem.output);
  for (int64_t m = 0; m < problem.M; ++m) {
    for (int64_t n = 0; n < problem.N; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < problem.K; ++k) {
        sum += decoded(operands.x, m * problem.K + k, input) * decoded(codes.data(), n * problem.K + k, input);
      }
      float scaled = float(sum);  // as the kernels do: each product is rounded to float
      if (operands.token_scale) scaled *= operands.token_scale[m];
      if (operands.channel_scale) scaled *= operands.channel_scale[n];
      store(operands.y, m * problem.N + n, output == CUDA_R_32I ? sum : scaled, output);
    }
  }
}

Entry small({"128x128:2x1:Pingpong", CUDA_R_8I, CUDA_R_16BF, prepare, run});
Entry large({"128x256:2x1:Cooperative", CUDA_R_8I, CUDA_R_16BF, prepare, run});
Entry sums({"128x256:2x1:Cooperative", CUDA_R_8I, CUDA_R_32I, prepare, run});
Entry fp8({"128x256:2x1:Cooperative", CUDA_R_8F_E4M3, CUDA_R_16BF, prepare, run});

}  // namespace
