#include "product.cuh"

SLIDESPARSE_PRODUCT(int8_t, Bf16, 128, 256, 2, 2, Cooperative)
