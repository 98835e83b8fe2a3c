// What Python calls: the menu, and one product by a kernel of it.
#include "menu.h"

#include <cutlass/version.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "abi.h"

using namespace slidesparse;

namespace slidesparse {

std::vector<Kernel>& menu() {
  static std::vector<Kernel> made;
  return made;
}

namespace {

bool serves(const Kernel& kernel, const Problem& problem) {
  return kernel.input == problem.input && kernel.output == problem.output;
}

const Kernel& named(const char* name, const Problem& problem) {
  for (const Kernel& kernel : menu()) {
    if (serves(kernel, problem) && !std::strcmp(kernel.name, name)) return kernel;
  }
  fail("CUTLASS", problem, std::string("there is no kernel ") + name);
}

}  // namespace

}  // namespace slidesparse

SLIDESPARSE_EXPORT const char* slidesparse_last_error() { return last_error().c_str(); }

// CUTLASS consists of headers, so what was compiled is what runs.
SLIDESPARSE_EXPORT void slidesparse_version(int64_t* compiled, int64_t* loaded) {
  *compiled = *loaded = CUTLASS_MAJOR * 10000 + CUTLASS_MINOR * 100 + CUTLASS_PATCH;
}

// Names of the kernels for the problem's types, in alphabetical order, with a space behind each.
SLIDESPARSE_EXPORT int slidesparse_menu(const Problem* problem, char* names, uint64_t bytes) {
  return guarded([&] {
    std::vector<std::string> found;
    for (const Kernel& kernel : menu()) {
      if (serves(kernel, *problem)) found.push_back(kernel.name);
    }
    std::sort(found.begin(), found.end());
    std::string text;
    for (const std::string& name : found) text += name + " ";
    if (text.size() >= bytes) fail("slidesparse_menu", *problem, "the names do not fit");
    std::memcpy(names, text.c_str(), text.size() + 1);
  });
}

// Checks that a kernel can do the problem, and loads it: call it before a graph is captured.
SLIDESPARSE_EXPORT int slidesparse_prepare(const Problem* problem, const char* name) {
  return guarded([&] { named(name, *problem).prepare(*problem); });
}

// Launches Y = X W^T, times the scales if there are some, on `stream`. Neither allocates nor waits.
SLIDESPARSE_EXPORT int slidesparse_matmul(const Problem* problem, const char* name, const void* values,
                                          const void* metadata, const void* x, void* y, const void* token_scale,
                                          const void* channel_scale, void* stream) {
  return guarded([&] {
    Operands operands{values, metadata, x, y, static_cast<const float*>(token_scale),
                      static_cast<const float*>(channel_scale)};
    named(name, *problem).run(*problem, operands, static_cast<cudaStream_t>(stream));
  });
}
