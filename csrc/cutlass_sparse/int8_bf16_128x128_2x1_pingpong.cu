#include "product.cuh"

SLIDESPARSE_PRODUCT(int8_t, Bf16, 128, 128, 2, 1, Pingpong)
