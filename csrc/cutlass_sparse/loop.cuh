// A main loop that overlaps tiles of K: the products of one run while those of the next are issued. CUTLASS's own loop
// for 2:4 operands waits for the tensor cores after every tile.
#pragma once

#include <cutlass/gemm/collective/collective_mma.hpp>

namespace slidesparse {

using namespace cute;

// Base: CUTLASS's loop, whose loads, pipeline and shared memory stay as they are.
template <class Base>
struct Overlapped : Base {
  using typename Base::MainloopPipeline;
  using typename Base::Params;
  using typename Base::PipelineState;
  using typename Base::TensorStorage;
  using typename Base::TiledMma;
  using SmemA = typename Base::SmemLayoutA;
  using SmemB = typename Base::SmemLayoutB;

  static constexpr int GROUP = cutlass::NumThreadsPerWarpGroup;
  static constexpr int ROWS = size<0>(typename TiledMma::AtomShape_MNK{});  // of an instruction, 64
  static constexpr int DEPTH = size<2>(typename TiledMma::AtomShape_MNK{});
  static constexpr int CHANNELS = size<0>(typename Base::TileShape{});
  static constexpr int STEPS = size<2>(typename Base::TileShape{}) / DEPTH;
  static constexpr int GROUPS = size(TiledMma{}) / GROUP;
  static constexpr int BLOCKS = CHANNELS / (ROWS * GROUPS);  // of rows that a warp group multiplies

  // Of 64 rows and 64 of K a thread has four bytes of metadata: those of one row and 32 of K. A tile's metadata lie row
  // by row in shared memory, 16 bytes a row.
  using Layout4 = Layout<Shape<Shape<_2, _2, _8, _4>, Shape<_32>>, Stride<Stride<_8, _2048, _1, _16>, Stride<_64>>>;
  static_assert(cute::is_same_v<typename TiledMma::Atom::Traits::ELayout, Layout4>);
  static_assert(DEPTH == 64 && STEPS == 2 && Base::ElementEMma::sparsity == 8);
  static_assert(typename Base::SmemLayoutE{}.layout_b()(CHANNELS - 1, 72, 1) == 8 * ((2 * CHANNELS - 1) * 16 + 9));
  using Lanes = decltype(make_tensor<uint32_t>(Shape<_1, Int<BLOCKS>, Int<STEPS>>{}));

  static CUTLASS_DEVICE void load_lanes(Lanes& lanes, const TensorStorage& shared, int stage, int thread) {
    const int row = thread / GROUP * ROWS + thread % GROUP / 32 * 16 + thread % 2 * 8 + thread % 32 / 4;
    const auto* bytes = reinterpret_cast<const uint8_t*>(&shared.smem_E) + (stage * CHANNELS + row) * 16;
    CUTLASS_PRAGMA_UNROLL
    for (int block = 0; block < BLOCKS; ++block) {
      CUTLASS_PRAGMA_UNROLL
      for (int step = 0; step < STEPS; ++step) {
        lanes(0, block, step) =
            *reinterpret_cast<const uint32_t*>(bytes + block * ROWS * GROUPS * 16 + step * 8 + thread / 2 % 2 * 4);
      }
    }
  }

  // Multiplies `tiles` tiles of K into `sums`, of which the last may still run at the end: mma_tail waits for it.
  template <class Sums>
  CUTLASS_DEVICE void mma(MainloopPipeline pipeline, PipelineState read, Sums& sums, int tiles, int thread,
                          TensorStorage& shared, const Params&) {
    const auto a = make_tensor(make_smem_ptr(shared.smem_A.begin()), SmemA{});
    const auto b = make_tensor(make_smem_ptr(shared.smem_B.begin()), SmemB{});
    TiledMma instructions;
    const int group = __shfl_sync(0xffffffff, thread / GROUP, 0);
    auto slice = instructions.get_thread_slice(group * GROUP);
    auto tile_a = slice.make_fragment_A(slice.partition_A(a));  // descriptors: (1, block, step, stage)
    auto tile_b = slice.make_fragment_B(slice.partition_B(b));
    instructions.accumulate_ = GMMA::ScaleOut::Zero;

    auto issue = [&](Lanes& lanes) {
      pipeline.consumer_wait(read, pipeline.consumer_try_wait(read));
      load_lanes(lanes, shared, read.index(), thread);
      warpgroup_fence_operand(sums);
      warpgroup_arrive();
      CUTLASS_PRAGMA_UNROLL
      for (int step = 0; step < STEPS; ++step) {
        cute::gemm(instructions, make_zip_tensor(tile_a(_, _, step, read.index()), lanes(_, _, step)),
                   tile_b(_, _, step, read.index()), sums);
        instructions.accumulate_ = GMMA::ScaleOut::One;
      }
      warpgroup_commit_batch();
      ++read;
    };
    PipelineState done = read;
    auto release = [&] {
      warpgroup_wait<1>();  // all but the tile that was issued last
      warpgroup_fence_operand(sums);
      pipeline.consumer_release(done);
      ++done;
    };

    Lanes even, odd;  // a running instruction reads its lanes, so two tiles have registers of their own
    issue(even);
    CUTLASS_PRAGMA_NO_UNROLL
    for (--tiles; tiles > 1; tiles -= 2) {
      issue(odd);
      release();
      issue(even);
      release();
    }
    if (tiles) {
      issue(odd);
      release();
    }
    warpgroup_fence_operand(sums);
  }

  CUTLASS_DEVICE void mma_tail(MainloopPipeline pipeline, PipelineState last, int tiles) {
    last.advance(tiles - 1);
    warpgroup_wait<0>();
    pipeline.consumer_release(last);
  }
};

}  // namespace slidesparse
