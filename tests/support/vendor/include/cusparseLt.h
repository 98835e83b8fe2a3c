// What csrc/cusparselt calls, for tests on machines without the vendor's package: names and values of its interface.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cusparse.h"

#define CUSPARSELT_VER_MAJOR 0
#define CUSPARSELT_VER_MINOR 8
#define CUSPARSELT_VER_PATCH 0
#define CUSPARSELT_VERSION (CUSPARSELT_VER_MAJOR * 1000 + CUSPARSELT_VER_MINOR * 100 + CUSPARSELT_VER_PATCH)

struct Opaque {
  alignas(16) uint8_t data[512];
};
struct cusparseLtHandle_t : Opaque {};
struct cusparseLtMatDescriptor_t : Opaque {};
struct cusparseLtMatmulDescriptor_t : Opaque {};
struct cusparseLtMatmulAlgSelection_t : Opaque {};
struct cusparseLtMatmulPlan_t : Opaque {};

enum cusparseComputeType { CUSPARSE_COMPUTE_32I = 0, CUSPARSE_COMPUTE_32F = 2 };
enum cusparseLtSparsity_t { CUSPARSELT_SPARSITY_50_PERCENT };
enum cusparseLtMatmulAlg_t { CUSPARSELT_MATMUL_ALG_DEFAULT };
enum cusparseLtMatmulDescAttribute_t { CUSPARSELT_MATMUL_ALPHA_VECTOR_SCALING = 5 };
enum cusparseLtMatmulAlgAttribute_t {
  CUSPARSELT_MATMUL_ALG_CONFIG_ID = 0,
  CUSPARSELT_MATMUL_ALG_CONFIG_MAX_ID = 1,
  CUSPARSELT_MATMUL_SPLIT_K = 3,
};

extern "C" {
cusparseStatus_t cusparseLtInit(cusparseLtHandle_t*);
cusparseStatus_t cusparseLtGetProperty(libraryPropertyType, int*);
cusparseStatus_t cusparseLtDenseDescriptorInit(const cusparseLtHandle_t*, cusparseLtMatDescriptor_t*, int64_t, int64_t,
                                               int64_t, uint32_t, cudaDataType, cusparseOrder_t);
cusparseStatus_t cusparseLtStructuredDescriptorInit(const cusparseLtHandle_t*, cusparseLtMatDescriptor_t*, int64_t,
                                                    int64_t, int64_t, uint32_t, cudaDataType, cusparseOrder_t,
                                                    cusparseLtSparsity_t);
cusparseStatus_t cusparseLtMatDescriptorDestroy(const cusparseLtMatDescriptor_t*);
cusparseStatus_t cusparseLtMatmulDescriptorInit(const cusparseLtHandle_t*, cusparseLtMatmulDescriptor_t*,
                                                cusparseOperation_t, cusparseOperation_t,
                                                const cusparseLtMatDescriptor_t*, const cusparseLtMatDescriptor_t*,
                                                const cusparseLtMatDescriptor_t*, const cusparseLtMatDescriptor_t*,
                                                cusparseComputeType);
cusparseStatus_t cusparseLtMatmulDescSetAttribute(const cusparseLtHandle_t*, cusparseLtMatmulDescriptor_t*,
                                                  cusparseLtMatmulDescAttribute_t, const void*, std::size_t);
cusparseStatus_t cusparseLtMatmulAlgSelectionInit(const cusparseLtHandle_t*, cusparseLtMatmulAlgSelection_t*,
                                                  const cusparseLtMatmulDescriptor_t*, cusparseLtMatmulAlg_t);
cusparseStatus_t cusparseLtMatmulAlgSelectionDestroy(const cusparseLtMatmulAlgSelection_t*);
cusparseStatus_t cusparseLtMatmulAlgSetAttribute(const cusparseLtHandle_t*, cusparseLtMatmulAlgSelection_t*,
                                                 cusparseLtMatmulAlgAttribute_t, const void*, std::size_t);
cusparseStatus_t cusparseLtMatmulAlgGetAttribute(const cusparseLtHandle_t*, const cusparseLtMatmulAlgSelection_t*,
                                                 cusparseLtMatmulAlgAttribute_t, void*, std::size_t);
cusparseStatus_t cusparseLtMatmulPlanInit(const cusparseLtHandle_t*, cusparseLtMatmulPlan_t*,
                                          const cusparseLtMatmulDescriptor_t*, const cusparseLtMatmulAlgSelection_t*);
cusparseStatus_t cusparseLtMatmulPlanDestroy(const cusparseLtMatmulPlan_t*);
cusparseStatus_t cusparseLtMatmulGetWorkspace(const cusparseLtHandle_t*, const cusparseLtMatmulPlan_t*, std::size_t*);
cusparseStatus_t cusparseLtMatmul(const cusparseLtHandle_t*, const cusparseLtMatmulPlan_t*, const void*, const void*,
                                  const void*, const void*, const void*, void*, void*, cudaStream_t*, int32_t);
cusparseStatus_t cusparseLtMatmulSearch(const cusparseLtHandle_t*, cusparseLtMatmulPlan_t*, const void*, const void*,
                                        const void*, const void*, const void*, void*, void*, cudaStream_t*, int32_t);
cusparseStatus_t cusparseLtSpMMAPruneCheck2(const cusparseLtHandle_t*, const cusparseLtMatDescriptor_t*, int,
                                            cusparseOperation_t, const void*, int*, cudaStream_t);
cusparseStatus_t cusparseLtSpMMACompressedSize2(const cusparseLtHandle_t*, const cusparseLtMatDescriptor_t*,
                                                std::size_t*, std::size_t*);
cusparseStatus_t cusparseLtSpMMACompress2(const cusparseLtHandle_t*, const cusparseLtMatDescriptor_t*, int,
                                          cusparseOperation_t, const void*, void*, void*, cudaStream_t);
}
