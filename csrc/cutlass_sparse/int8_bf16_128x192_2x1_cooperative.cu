#include "product.cuh"

SLIDESPARSE_PRODUCT(int8_t, Bf16, 128, 192, 2, 1, Cooperative)
