#include "product.cuh"

SLIDESPARSE_PRODUCT(E4m3, Bf16, 128, 192, 2, 1, Cooperative)
