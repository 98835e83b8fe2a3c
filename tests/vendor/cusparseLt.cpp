// A library that answers as cuSPARSELt does, with products on the host. Its algorithms: ids 0 to 2, of which it takes 1
// by itself, finds 2 in a search, and cannot split K in segments with 2; with a structured operand B not with 1 either,
// and 2 is wrong there. Compressing copies; for operand B it adds one to the last byte, or refuses, if the environment
// has STAND_IN_OPERAND_B=differs or =refused.
#include <cusparseLt.h>

#include <cstdlib>

#include "product.h"

namespace {

struct Matrix {
  int64_t rows, cols, ld;
  cudaDataType type;
  cusparseOrder_t order;
  bool structured;
};
struct Operation {
  const Matrix *w, *x, *y;
  bool b;  // w is operand B
  int alpha_vector;
};
struct Selection {
  const Operation* operation;
  int id, split;
};

template <class To, class From>
To* as(From* opaque) {
  static_assert(sizeof(To) <= sizeof(From), "fits into the opaque object");
  return reinterpret_cast<To*>(opaque);
}

cusparseStatus_t matrix(cusparseLtMatDescriptor_t* made, const Matrix& asked, int multiple) {
  if (asked.rows % multiple || asked.cols % multiple) return CUSPARSE_STATUS_INVALID_VALUE;
  if (asked.ld != (asked.order == CUSPARSE_ORDER_ROW ? asked.cols : asked.rows)) return CUSPARSE_STATUS_INVALID_VALUE;
  *as<Matrix>(made) = asked;
  return CUSPARSE_STATUS_SUCCESS;
}

bool is(const Matrix* matrix, int64_t rows, int64_t cols, cusparseOrder_t order) {
  return matrix->rows == rows && matrix->cols == cols && matrix->order == order;
}

const char* operand_b() {
  const char* answer = std::getenv("STAND_IN_OPERAND_B");
  return answer ? answer : "";
}

}  // namespace

cusparseStatus_t cusparseLtInit(cusparseLtHandle_t*) { return CUSPARSE_STATUS_SUCCESS; }

cusparseStatus_t cusparseLtGetProperty(libraryPropertyType property, int* value) {
  int parts[] = {STAND_IN_VERSION / 10000, STAND_IN_VERSION / 100 % 100, STAND_IN_VERSION % 100};
  *value = parts[property];
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtDenseDescriptorInit(const cusparseLtHandle_t*, cusparseLtMatDescriptor_t* made, int64_t rows,
                                               int64_t cols, int64_t ld, uint32_t, cudaDataType type,
                                               cusparseOrder_t order) {
  return matrix(made, {rows, cols, ld, type, order, false}, 16);
}

cusparseStatus_t cusparseLtStructuredDescriptorInit(const cusparseLtHandle_t*, cusparseLtMatDescriptor_t* made,
                                                    int64_t rows, int64_t cols, int64_t ld, uint32_t, cudaDataType type,
                                                    cusparseOrder_t order, cusparseLtSparsity_t) {
  return matrix(made, {rows, cols, ld, type, order, true}, 32);
}

cusparseStatus_t cusparseLtMatDescriptorDestroy(const cusparseLtMatDescriptor_t*) { return CUSPARSE_STATUS_SUCCESS; }

cusparseStatus_t cusparseLtMatmulDescriptorInit(const cusparseLtHandle_t*, cusparseLtMatmulDescriptor_t* made,
                                                cusparseOperation_t op_a, cusparseOperation_t op_b,
                                                const cusparseLtMatDescriptor_t* a, const cusparseLtMatDescriptor_t* b,
                                                const cusparseLtMatDescriptor_t*, const cusparseLtMatDescriptor_t* d,
                                                cusparseComputeType) {
  const Matrix *first = as<const Matrix>(a), *second = as<const Matrix>(b), *y = as<const Matrix>(d);
  bool is_b = second->structured;
  const Matrix *w = is_b ? second : first, *x = is_b ? first : second;
  if (first->structured == second->structured || op_a != CUSPARSE_OPERATION_NON_TRANSPOSE ||
      op_b != (is_b ? CUSPARSE_OPERATION_NON_TRANSPOSE : CUSPARSE_OPERATION_TRANSPOSE)) {
    return CUSPARSE_STATUS_NOT_SUPPORTED;
  }
  bool fits = is_b ? is(w, x->cols, w->cols, CUSPARSE_ORDER_COL) && is(y, x->rows, w->cols, CUSPARSE_ORDER_ROW)
                   : is(w, w->rows, x->cols, CUSPARSE_ORDER_ROW) && is(y, w->rows, x->rows, CUSPARSE_ORDER_COL);
  if (!fits || x->order != CUSPARSE_ORDER_ROW) return CUSPARSE_STATUS_INVALID_VALUE;
  *as<Operation>(made) = {w, x, y, is_b, 0};
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtMatmulDescSetAttribute(const cusparseLtHandle_t*, cusparseLtMatmulDescriptor_t* operation,
                                                  cusparseLtMatmulDescAttribute_t, const void* value, std::size_t) {
  auto* made = as<Operation>(operation);
  if (made->w->type != CUDA_R_8I) return CUSPARSE_STATUS_NOT_SUPPORTED;
  made->alpha_vector = *static_cast<const int*>(value);
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtMatmulAlgSelectionInit(const cusparseLtHandle_t*, cusparseLtMatmulAlgSelection_t* made,
                                                  const cusparseLtMatmulDescriptor_t* operation,
                                                  cusparseLtMatmulAlg_t) {
  *as<Selection>(made) = {as<const Operation>(operation), 1, 1};
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtMatmulAlgSelectionDestroy(const cusparseLtMatmulAlgSelection_t*) {
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtMatmulAlgSetAttribute(const cusparseLtHandle_t*, cusparseLtMatmulAlgSelection_t* selection,
                                                 cusparseLtMatmulAlgAttribute_t attribute, const void* value,
                                                 std::size_t) {
  int number = *static_cast<const int*>(value);
  if (attribute == CUSPARSELT_MATMUL_ALG_CONFIG_ID && (number < 0 || number > 2)) return CUSPARSE_STATUS_INVALID_VALUE;
  auto* made = as<Selection>(selection);
  (attribute == CUSPARSELT_MATMUL_ALG_CONFIG_ID ? made->id : made->split) = number;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtMatmulAlgGetAttribute(const cusparseLtHandle_t*,
                                                 const cusparseLtMatmulAlgSelection_t* selection,
                                                 cusparseLtMatmulAlgAttribute_t attribute, void* value, std::size_t) {
  const auto* made = as<const Selection>(selection);
  int answer = attribute == CUSPARSELT_MATMUL_SPLIT_K ? made->split : made->id;
  *static_cast<int*>(value) = attribute == CUSPARSELT_MATMUL_ALG_CONFIG_MAX_ID ? 3 : answer;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtMatmulPlanInit(const cusparseLtHandle_t*, cusparseLtMatmulPlan_t* plan,
                                          const cusparseLtMatmulDescriptor_t*,
                                          const cusparseLtMatmulAlgSelection_t* selection) {
  const auto* chosen = as<const Selection>(selection);
  *as<const Selection*>(plan) = chosen;
  bool refused = chosen->split == -1 && (chosen->id == 2 || (chosen->id == 1 && chosen->operation->b));
  return refused ? CUSPARSE_STATUS_NOT_SUPPORTED : CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtMatmulPlanDestroy(const cusparseLtMatmulPlan_t*) { return CUSPARSE_STATUS_SUCCESS; }

cusparseStatus_t cusparseLtMatmulGetWorkspace(const cusparseLtHandle_t*, const cusparseLtMatmulPlan_t* plan,
                                              std::size_t* bytes) {
  const Selection* chosen = *as<const Selection* const>(plan);
  *bytes = chosen->split == -1 ? chosen->operation->x->rows * 1000 : 0;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtMatmul(const cusparseLtHandle_t*, const cusparseLtMatmulPlan_t* plan, const void* alpha,
                                  const void* a, const void* b, const void*, const void*, void* d, void*,
                                  cudaStream_t*, int32_t) {
  const Selection* chosen = *as<const Selection* const>(plan);
  const Operation* operation = chosen->operation;
  const Matrix *w = operation->w, *x = operation->x;
  product(x->rows, operation->b ? w->cols : w->rows, x->cols, operation->b ? b : a, operation->b ? a : b, w->type, d,
          operation->y->type, operation->alpha_vector ? static_cast<const float*>(alpha) : nullptr,
          operation->b && chosen->id == 2 ? 1000 : 0);
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtMatmulSearch(const cusparseLtHandle_t*, cusparseLtMatmulPlan_t* plan, const void*,
                                        const void*, const void*, const void*, const void*, void*, void*,
                                        cudaStream_t*, int32_t) {
  const_cast<Selection*>(*as<const Selection*>(plan))->id = 2;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtSpMMAPruneCheck2(const cusparseLtHandle_t*, const cusparseLtMatDescriptor_t* matrix, int,
                                            cusparseOperation_t, const void* codes, int* invalid, cudaStream_t) {
  const auto* w = as<const Matrix>(matrix);
  *invalid = 0;
  for (int64_t at = 0; at < w->rows * w->cols; at += 4) {
    int filled = 0;
    for (int64_t lane = at; lane < at + 4; ++lane) filled += decoded(codes, lane, w->type) != 0;
    if (filled > 2) *invalid = 1;
  }
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtSpMMACompressedSize2(const cusparseLtHandle_t*, const cusparseLtMatDescriptor_t* matrix,
                                                std::size_t* bytes, std::size_t* buffer) {
  *bytes = as<const Matrix>(matrix)->rows * as<const Matrix>(matrix)->cols;
  *buffer = 0;
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtSpMMACompress2(const cusparseLtHandle_t*, const cusparseLtMatDescriptor_t* matrix,
                                          int is_sparse_a, cusparseOperation_t, const void* codes, void* compressed,
                                          void*, cudaStream_t) {
  const auto* w = as<const Matrix>(matrix);
  if (!w->structured || is_sparse_a != (w->order == CUSPARSE_ORDER_ROW)) return CUSPARSE_STATUS_INVALID_VALUE;
  if (!is_sparse_a && !std::strcmp(operand_b(), "refused")) return CUSPARSE_STATUS_NOT_SUPPORTED;
  std::memcpy(compressed, codes, w->rows * w->cols);
  if (!is_sparse_a && !std::strcmp(operand_b(), "differs")) ++static_cast<char*>(compressed)[w->rows * w->cols - 1];
  return CUSPARSE_STATUS_SUCCESS;
}
