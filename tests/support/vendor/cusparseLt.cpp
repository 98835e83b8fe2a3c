// A library that answers as cuSPARSELt does, with products on the host. Its algorithms: ids 0 to 2, of which it takes 1
// by itself, finds 2 in a search, and cannot split K in segments with 2. Compressing copies.
#include <cusparseLt.h>

#include "product.h"

namespace {

struct Matrix {
  int64_t rows, cols;
  cudaDataType type;
};
struct Operation {
  const Matrix *w, *x, *y;
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

cusparseStatus_t matrix(cusparseLtMatDescriptor_t* made, int64_t rows, int64_t cols, cudaDataType type) {
  *as<Matrix>(made) = {rows, cols, type};
  return CUSPARSE_STATUS_SUCCESS;
}

}  // namespace

cusparseStatus_t cusparseLtInit(cusparseLtHandle_t*) { return CUSPARSE_STATUS_SUCCESS; }

cusparseStatus_t cusparseLtGetProperty(libraryPropertyType property, int* value) {
  int parts[] = {STAND_IN_VERSION / 10000, STAND_IN_VERSION / 100 % 100, STAND_IN_VERSION % 100};
  *value = parts[property];
  return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseLtDenseDescriptorInit(const cusparseLtHandle_t*, cusparseLtMatDescriptor_t* made, int64_t rows,
                                               int64_t cols, int64_t, uint32_t, cudaDataType type, cusparseOrder_t) {
  return rows % 16 || cols % 16 ? CUSPARSE_STATUS_INVALID_VALUE : matrix(made, rows, cols, type);
}

cusparseStatus_t cusparseLtStructuredDescriptorInit(const cusparseLtHandle_t*, cusparseLtMatDescriptor_t* made,
                                                    int64_t rows, int64_t cols, int64_t, uint32_t, cudaDataType type,
                                                    cusparseOrder_t, cusparseLtSparsity_t) {
  return rows % 32 || cols % 32 ? CUSPARSE_STATUS_INVALID_VALUE : matrix(made, rows, cols, type);
}

cusparseStatus_t cusparseLtMatDescriptorDestroy(const cusparseLtMatDescriptor_t*) { return CUSPARSE_STATUS_SUCCESS; }

cusparseStatus_t cusparseLtMatmulDescriptorInit(const cusparseLtHandle_t*, cusparseLtMatmulDescriptor_t* made,
                                                cusparseOperation_t, cusparseOperation_t,
                                                const cusparseLtMatDescriptor_t* w, const cusparseLtMatDescriptor_t* x,
                                                const cusparseLtMatDescriptor_t*, const cusparseLtMatDescriptor_t* y,
                                                cusparseComputeType) {
  *as<Operation>(made) = {as<const Matrix>(w), as<const Matrix>(x), as<const Matrix>(y), 0};
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
  return chosen->id == 2 && chosen->split == -1 ? CUSPARSE_STATUS_NOT_SUPPORTED : CUSPARSE_STATUS_SUCCESS;
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
  const Operation* operation = (*as<const Selection* const>(plan))->operation;
  product(operation->x->rows, operation->w->rows, operation->w->cols, a, b, operation->w->type, d, operation->y->type,
          operation->alpha_vector ? static_cast<const float*>(alpha) : nullptr, 0);
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

cusparseStatus_t cusparseLtSpMMACompress2(const cusparseLtHandle_t*, const cusparseLtMatDescriptor_t* matrix, int,
                                          cusparseOperation_t, const void* codes, void* compressed, void*,
                                          cudaStream_t) {
  std::memcpy(compressed, codes, as<const Matrix>(matrix)->rows * as<const Matrix>(matrix)->cols);
  return CUSPARSE_STATUS_SUCCESS;
}
