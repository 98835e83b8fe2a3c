// What both libraries export, and how errors leave them: a status other than 0, and a sentence for the calling thread.
#pragma once

#include <exception>
#include <stdexcept>
#include <string>

#define SLIDESPARSE_EXPORT extern "C" __attribute__((visibility("default")))

namespace slidesparse {

inline std::string& last_error() {
  thread_local std::string sentence;
  return sentence;
}

// Runs the body of an exported function: 0, or 1 with the exception's sentence kept for slidesparse_last_error.
template <class Body>
int guarded(Body body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    last_error() = error.what();
    return 1;
  }
}

}  // namespace slidesparse
