// A product by CUTLASS for Hopper: Y^T = W X^T with W, the sparse operand A, in 2:4 form, and scales in the epilogue.
#pragma once

#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/operations.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <cutlass/kernel_hardware_info.h>

#include "loop.cuh"
#include "menu.h"

namespace slidesparse {

using namespace cute;

// How the two warp groups of a block that multiply share its work: halves of one tile, or a tile each in turn. Sums of
// E4M3 stay in the tensor core.
struct Cooperative {
  template <class Base>
  using Loop = Overlapped<Base>;
  using Store = cutlass::epilogue::TmaWarpSpecializedCooperative;
  using Int8 = cutlass::gemm::KernelTmaWarpSpecializedCooperative;
  using Fp8 = cutlass::gemm::KernelTmaWarpSpecializedCooperativeFP8FastAccum;
};
struct Pingpong {
  template <class Base>
  using Loop = Overlapped<Base>;
  using Store = cutlass::epilogue::TmaWarpSpecialized;
  using Int8 = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
  using Fp8 = cutlass::gemm::KernelTmaWarpSpecializedPingpongFP8FastAccum;
};

// Cooperative with CUTLASS's own loop.
struct Waiting : Cooperative {
  template <class Base>
  using Loop = Base;
};

using Bf16 = cutlass::bfloat16_t;
using E4m3 = cutlass::float_e4m3_t;

template <class Type>
inline constexpr int32_t number = cute::is_same_v<Type, int8_t>    ? CUDA_R_8I
                                  : cute::is_same_v<Type, E4m3>    ? CUDA_R_8F_E4M3
                                  : cute::is_same_v<Type, int32_t> ? CUDA_R_32I
                                                                   : CUDA_R_16BF;

// What becomes of a sum: BF16 with both scales, or the sum itself.
template <class Sum, class Output, class Tile>
struct Epilogue {
  template <template <class> class Operation, class To, class In, class... Inputs>
  using Node = cutlass::epilogue::fusion::Sm90EVT<
      cutlass::epilogue::fusion::Sm90Compute<Operation, To, In, cutlass::FloatRoundStyle::round_to_nearest>, Inputs...>;
  using Accumulator = cutlass::epilogue::fusion::Sm90AccFetch;
  using Token = cutlass::epilogue::fusion::Sm90RowBroadcast<0, Tile, float>;
  using Channel = cutlass::epilogue::fusion::Sm90ColBroadcast<0, Tile, float>;
  using Scaled = Node<cutlass::multiplies, Output, float, Channel,
                      Node<cutlass::multiplies, float, float, Token, Accumulator>>;
  using Plain = Node<cutlass::epilogue::thread::Identity, Output, Sum, Accumulator>;
  static constexpr bool scales = cute::is_same_v<Output, Bf16>;
  using Tree = cute::conditional_t<scales, Scaled, Plain>;
  using Compute = cute::conditional_t<scales, float, Sum>;

  static typename Tree::Arguments arguments(const Operands& operands) {
    if constexpr (scales) {
      return {{operands.channel_scale, 1.0f, {}}, {{operands.token_scale, 1.0f, {}}, {}, {}}, {}};
    } else {
      return {{}, {}};
    }
  }
};

// Whether CUTLASS reads values and metadata where menu.h says that they lie.
template <class Config>
constexpr bool laid_out() {
  constexpr int rows = 2 * METADATA_ROWS, K = 384;
  const auto values = Config::fill_layoutA(make_shape(rows, 1, K, 1));    // two codes are a byte
  const auto metadata = Config::fill_layoutE(make_shape(rows, 1, K, 1));  // eight codes are a byte
  for (int row : {0, 1, 8, METADATA_ROWS - 1, METADATA_ROWS, rows - 1}) {
    for (int k = 0; k < K; k += 8) {
      if (values(row, k, 0) != row * K + k) return false;
      if (metadata(row, k, 0) != 8 * ((k / 128 * rows + row) * 16 + k % 128 / 8)) return false;
    }
  }
  return true;
}

// Channels, Tokens: a tile of Y^T. ClusterChannels, ClusterTokens: blocks of a cluster, which share what they load.
template <class Input, class Output, int Channels, int Tokens, int ClusterChannels, int ClusterTokens, class Schedule>
struct Product {
  using Sum = cute::conditional_t<cute::is_same_v<Input, int8_t>, int32_t, float>;
  using Tile = Shape<Int<Channels>, Int<Tokens>, _128>;
  using Cluster = Shape<Int<ClusterChannels>, Int<ClusterTokens>, _1>;
  using Ends = Epilogue<Sum, Output, Tile>;
  using Transposed = cutlass::layout::ColumnMajor;  // Y^T [N, M], whose memory is Y [M, N]
  using Store = typename cutlass::epilogue::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassSparseTensorOp, Tile, Cluster,
      cutlass::epilogue::collective::EpilogueTileAuto, Sum, typename Ends::Compute, void, Transposed,
      16 / sizeof(Output), Output, Transposed, 16 / sizeof(Output), typename Schedule::Store,
      typename Ends::Tree>::CollectiveOp;
  using Loop = typename Schedule::template Loop<typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassSparseTensorOp, Input, cutlass::layout::RowMajor, 32, Input,
      cutlass::layout::ColumnMajor, 16, Sum, Tile, Cluster,
      cutlass::gemm::collective::StageCountAutoCarveout<int(sizeof(typename Store::SharedStorage))>,
      cute::conditional_t<cute::is_same_v<Input, int8_t>, typename Schedule::Int8,
                          typename Schedule::Fp8>>::CollectiveOp>;
  using Gemm = cutlass::gemm::device::GemmUniversalAdapter<
      cutlass::gemm::kernel::GemmUniversal<Shape<int, int, int, int>, Loop, Store>>;
  using Config = typename Loop::SparseConfig;
  static_assert(laid_out<Config>());
  static_assert(typename Config::TensorEAlignmentM{} == METADATA_ROWS);

  static typename Gemm::Arguments arguments(const Problem& problem, const Operands& operands) {
    const int M = problem.M, N = problem.N, K = problem.K;
    const auto shape = make_shape(N, M, K, 1);
    static const auto hardware = cutlass::KernelHardwareInfo::make_kernel_hardware_info<typename Gemm::GemmKernel>();
    return {cutlass::gemm::GemmUniversalMode::kGemm,
            shape,
            {static_cast<const Input*>(operands.values), Config::fill_layoutA(shape),
             static_cast<const Input*>(operands.x), make_stride(int64_t(K), _1{}, int64_t(0)),
             static_cast<const typename Loop::ElementE*>(operands.metadata), Config::fill_layoutE(shape)},
            {Ends::arguments(operands), nullptr, {}, static_cast<Output*>(operands.y),
             make_stride(_1{}, int64_t(N), int64_t(0))},
            hardware};
  }

  static void check(cutlass::Status status, const char* call, const Problem& problem) {
    if (status == cutlass::Status::kSuccess) return;
    const cudaError_t error = cudaGetLastError();
    fail(call, problem, error == cudaSuccess ? cutlassGetStatusString(status) : cudaGetErrorString(error));
  }

  static void prepare(const Problem& problem) {
    const auto made = arguments(problem, {});
    check(Gemm::can_implement(made), "CUTLASS's can_implement", problem);
    if (problem.K % 128) fail("CUTLASS's can_implement", problem, "K must be a multiple of 128");
    require_workspace("CUTLASS's kernel", problem, Gemm::get_workspace_size(made), 0);
    check(Gemm::maximum_active_blocks() > 0 ? cutlass::Status::kSuccess : cutlass::Status::kErrorInternal,
          "loading CUTLASS's kernel", problem);
  }

  static void run(const Problem& problem, const Operands& operands, cudaStream_t stream) {
    Gemm gemm;
    check(gemm.initialize(arguments(problem, operands), nullptr, stream), "CUTLASS's initialize", problem);
    check(gemm.run(stream), "CUTLASS's run", problem);
  }
};

}  // namespace slidesparse

// Adds a kernel to the menu. Its name says tile, cluster and schedule.
#define SLIDESPARSE_PRODUCT(Input, Output, Channels, Tokens, ClusterChannels, ClusterTokens, Schedule)            \
  namespace slidesparse {                                                                                         \
  using Made = Product<Input, Output, Channels, Tokens, ClusterChannels, ClusterTokens, Schedule>;                \
  static const Entry entry({#Channels "x" #Tokens ":" #ClusterChannels "x" #ClusterTokens ":" #Schedule,          \
                            number<Input>, number<Output>, Made::prepare, Made::run});                            \
  }
