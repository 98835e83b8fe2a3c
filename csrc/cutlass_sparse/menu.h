// The kernels of this library. Each of its .cu files adds one to the menu when the library is loaded.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

#include "problem.h"

namespace slidesparse {

// A weight [N, K] in 2:4 form, activations x [M, K] and the product y [M, N], all in device memory.
struct Operands {
  const void* values;          // [N, K / 2], the two kept codes of every four
  const void* metadata;        // [K / 128, rows, 16] bytes, rows = N rounded up to METADATA_ROWS
  const void* x;
  void* y;
  const float* token_scale;    // [M] and
  const float* channel_scale;  // [N], or null for ones; not used if y is INT32
};

constexpr int METADATA_ROWS = 64;

// One kernel: a tile and a schedule, for a type of codes and of products.
struct Kernel {
  const char* name;
  int32_t input, output;
  void (*prepare)(const Problem& problem);  // throws unless it can do the problem; loads it onto the GPU
  void (*run)(const Problem& problem, const Operands& operands, cudaStream_t stream);
};

std::vector<Kernel>& menu();

struct Entry {
  explicit Entry(const Kernel& kernel) { menu().push_back(kernel); }
};

}  // namespace slidesparse
