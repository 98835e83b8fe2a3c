#include "product.cuh"

SLIDESPARSE_PRODUCT(int8_t, int32_t, 128, 256, 2, 1, Cooperative)
