// One product of cuSPARSELt with a 2:4 weight: its descriptors, its plan, and the cache of plans.
#pragma once

#include <cusparseLt.h>

#include <cstdint>
#include <memory>

#include "problem.h"

namespace slidesparse {

const cusparseLtHandle_t* handle();

// Throws a sentence that names call, problem and status, unless `status` is success.
void check(cusparseStatus_t status, const char* call, const Problem& problem);

// The library's objects may refer to each other, so they stay where they were made.
class Matrix {
 public:
  Matrix() = default;
  ~Matrix();
  Matrix(const Matrix&) = delete;
  void dense(const Problem& problem, int64_t rows, int64_t cols, int64_t ld, int32_t type, cusparseOrder_t order);
  void structured(const Problem& problem);
  cusparseLtMatDescriptor_t made;

 private:
  bool there_ = false;
};

// W is the structured operand A, rows output channels: Y^T [N, M] = W X^T, column-major, which is Y row-major.
class Plan {
 public:
  Plan(const Problem& problem, int32_t id, int32_t split_k);
  ~Plan();
  Plan(const Plan&) = delete;

  cusparseLtMatmulPlan_t made;
  cusparseLtMatmulAlgSelection_t selection;
  std::size_t workspace = 0;

 private:
  Matrix weight_, x_, y_;
  cusparseLtMatmulDescriptor_t operation_;
  bool selected_ = false, planned_ = false;
};

constexpr int32_t DEFAULT = -1;  // instead of an algorithm's id: what the library takes by itself

// The plan of a problem, an algorithm and a split, made once and kept.
std::shared_ptr<Plan> plan(const Problem& problem, int32_t id, int32_t split_k);

template <class Value>
Value selected(const Plan& plan, cusparseLtMatmulAlgAttribute_t attribute, const Problem& problem) {
  Value value = 0;
  check(cusparseLtMatmulAlgGetAttribute(handle(), &plan.selection, attribute, &value, sizeof(value)),
        "cusparseLtMatmulAlgGetAttribute", problem);
  return value;
}

}  // namespace slidesparse
