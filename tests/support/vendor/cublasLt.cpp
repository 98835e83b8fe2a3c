// A library that answers as cuBLASLt does, with products on the host. Its algorithms: id 7 has tiles 1 and 2, stages 1
// and 2 (tile 2 with stages 1 alone), two custom options, swizzling, and clusters of 1x1 or 2x1; id 9 has no clusters,
// splits K, and its custom option 1 is wrong.
#include <cublasLt.h>

#include "product.h"

struct cublasLtContext {};
struct Operation {
  cudaDataType scale;
  int8_t fast;
};
struct Layout {
  cudaDataType type;
  int64_t rows, cols;
};
struct Limits {
  uint64_t workspace = 0;
  uint32_t reductions = 7;
};

namespace {

// Numbered as the attributes are; the cluster takes the place of the inner shape.
enum Field { ID, TILE, SPLIT, REDUCTION, SWIZZLE, CUSTOM, STAGES, CLUSTER };

std::size_t workspace(const cublasLtMatmulAlgo_t& algo, Layout* y) {
  return int32_t(algo.data[SPLIT]) > 1 ? algo.data[SPLIT] * y->rows * y->cols * 4 : 0;
}

cublasLtMatmulAlgo_t made(uint64_t id, uint64_t tile, uint64_t split, uint64_t reduction) {
  return {{id, tile, split, reduction, 0, 0, tile, 0}};  // stages as the tile
}

}  // namespace

std::size_t cublasLtGetVersion() { return STAND_IN_VERSION; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation, cublasComputeType_t, cudaDataType_t scale) {
  *operation = new Operation{scale, 0};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  delete operation;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t) {
  if (attribute == CUBLASLT_MATMUL_DESC_FAST_ACCUM) operation->fast = *static_cast<const int8_t*>(value);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t) {
  if (rows % 4) return CUBLAS_STATUS_INVALID_VALUE;
  *layout = new Layout{type, int64_t(rows), int64_t(cols)};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new Limits;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    std::size_t size) {
  void* target = &preference->reductions;
  if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) target = &preference->workspace;
  std::memcpy(target, value, size);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetIds(cublasLtHandle_t, cublasComputeType_t, cudaDataType_t, cudaDataType_t,
                                        cudaDataType_t, cudaDataType_t, cudaDataType_t, int, int ids[], int* count) {
  ids[0] = 7;
  ids[1] = 9;
  *count = 2;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t, cublasComputeType_t, cudaDataType_t, cudaDataType_t,
                                      cudaDataType_t, cudaDataType_t, cudaDataType_t, int id,
                                      cublasLtMatmulAlgo_t* algo) {
  *algo = made(uint64_t(id), 0, 1, 0);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCapGetAttribute(const cublasLtMatmulAlgo_t* algo,
                                                 cublasLtMatmulAlgoCapAttributes_t attribute, void* out,
                                                 std::size_t size, std::size_t* written) {
  bool seven = algo->data[ID] == 7;
  uint32_t list[2] = {1, 2}, single = 0;
  std::size_t bytes = sizeof(single);
  const void* answer = &single;
  if (attribute == CUBLASLT_ALGO_CAP_TILE_IDS || attribute == CUBLASLT_ALGO_CAP_STAGES_IDS) {
    bytes = seven ? sizeof(list) : 0;
    answer = list;
  } else if (attribute == CUBLASLT_ALGO_CAP_REDUCTION_SCHEME_MASK) {
    single = 3;
  } else if (attribute == CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX) {
    single = 1;
  } else {
    single = (attribute == CUBLASLT_ALGO_CAP_CTA_SWIZZLING_SUPPORT) == seven;
  }
  *written = bytes;
  if (size) std::memcpy(out, answer, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t* algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute, const void* value,
                                                    std::size_t size) {
  uint64_t& field = algo->data[attribute == CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID ? CLUSTER : attribute];
  field = 0;
  std::memcpy(&field, value, size);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algo,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute, void* value,
                                                    std::size_t size, std::size_t* written) {
  if (attribute == CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(value, &algo->data[attribute == CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID ? CLUSTER : attribute], size);
  *written = size;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                       cublasLtMatrixLayout_t, cublasLtMatrixLayout_t y, cublasLtMatrixLayout_t,
                                       const cublasLtMatmulAlgo_t* algo, cublasLtMatmulHeuristicResult_t* result) {
  if (algo->data[ID] != 7 && algo->data[ID] != 9) return CUBLAS_STATUS_INVALID_VALUE;
  if (algo->data[TILE] == 2 && algo->data[STAGES] == 2) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (algo->data[ID] == 7 && algo->data[CLUSTER] > CUBLASLT_CLUSTER_SHAPE_2x1x1) return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = workspace(*algo, y);
  result->wavesCount = float(y->rows * y->cols) / 10000;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t y, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  cublasLtMatmulAlgo_t algos[] = {made(7, 1, 1, 0), made(9, 0, 2, 1)};
  *count = 0;
  for (const auto& algo : algos) {
    bool allowed = workspace(algo, y) <= preference->workspace &&
                   (!algo.data[REDUCTION] || (preference->reductions & algo.data[REDUCTION]));
    if (allowed && *count < most) results[(*count)++] = {algo, workspace(algo, y), CUBLAS_STATUS_SUCCESS, 1, {}};
  }
  return *count ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void* a,
                              cublasLtMatrixLayout_t weight, const void* b, cublasLtMatrixLayout_t x, const void*,
                              const void*, cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t y,
                              const cublasLtMatmulAlgo_t* algo, void*, std::size_t, cudaStream_t) {
  double error = algo->data[ID] == 9 && algo->data[CUSTOM] == 1;
  product(x->cols, weight->cols, weight->rows, a, b, weight->type, d, y->type, nullptr, error);
  return CUBLAS_STATUS_SUCCESS;
}
