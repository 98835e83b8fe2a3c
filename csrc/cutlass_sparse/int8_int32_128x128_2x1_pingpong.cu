#include "product.cuh"

SLIDESPARSE_PRODUCT(int8_t, int32_t, 128, 128, 2, 1, Pingpong)
