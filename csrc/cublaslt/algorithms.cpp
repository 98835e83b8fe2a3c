// Which algorithms there are: what the heuristic proposes, and every configuration that the library accepts.
#include <cstring>
#include <vector>

#include "abi.h"
#include "plan.h"

// One algorithm and what is known of it. Mirrored by gemm/cublaslt.py.
struct Candidate {
  slidesparse::Algorithm algorithm;
  uint64_t workspace;
  float waves;
  int32_t id, tile, stages, split_k, reduction, swizzle, custom, inner, cluster;
};

namespace {

using namespace slidesparse;

constexpr int MOST_IDS = 256;
constexpr std::size_t MOST_TILES = 64;

// Clusters of up to eight blocks, and one that there is not, which only an algorithm without clusters accepts.
constexpr uint16_t CLUSTERS[] = {
    CUBLASLT_CLUSTER_SHAPE_1x1x1, CUBLASLT_CLUSTER_SHAPE_2x1x1, CUBLASLT_CLUSTER_SHAPE_4x1x1,
    CUBLASLT_CLUSTER_SHAPE_8x1x1, CUBLASLT_CLUSTER_SHAPE_1x2x1, CUBLASLT_CLUSTER_SHAPE_1x4x1,
    CUBLASLT_CLUSTER_SHAPE_1x8x1, CUBLASLT_CLUSTER_SHAPE_2x2x1, CUBLASLT_CLUSTER_SHAPE_4x2x1,
    CUBLASLT_CLUSTER_SHAPE_2x4x1,
};
constexpr uint16_t NO_CLUSTER = 200;

template <class Value>
Value config(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute) {
  Value value = 0;
  std::size_t written;
  cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof(value), &written);
  return value;
}

// True if the library takes the value; an algorithm that has no such choice keeps what it had.
template <class Value>
bool configure(cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute, Value value) {
  return cublasLtMatmulAlgoConfigSetAttribute(&algorithm, attribute, &value, sizeof(value)) == CUBLAS_STATUS_SUCCESS;
}

template <class Value>
Value capability(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoCapAttributes_t attribute) {
  Value value = 0;
  std::size_t written;
  cublasLtMatmulAlgoCapGetAttribute(&algorithm, attribute, &value, sizeof(value), &written);
  return value;
}

// The ids that the algorithm offers, or the one that stands for "undefined".
std::vector<uint32_t> offered(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoCapAttributes_t attribute) {
  std::size_t bytes = 0;
  cublasLtMatmulAlgoCapGetAttribute(&algorithm, attribute, nullptr, 0, &bytes);
  std::vector<uint32_t> ids(bytes / sizeof(uint32_t));
  if (!ids.empty()) cublasLtMatmulAlgoCapGetAttribute(&algorithm, attribute, ids.data(), bytes, &bytes);
  if (ids.empty()) ids.push_back(0);
  return ids;
}

Candidate candidate(const cublasLtMatmulAlgo_t& algorithm, std::size_t workspace, float waves) {
  Candidate made = {};
  std::memcpy(made.algorithm.data(), algorithm.data, sizeof(made.algorithm));
  made.workspace = workspace;
  made.waves = waves;
  made.id = config<int32_t>(algorithm, CUBLASLT_ALGO_CONFIG_ID);
  made.tile = int32_t(config<uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID));
  made.stages = int32_t(config<uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_STAGES_ID));
  made.split_k = config<int32_t>(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
  made.reduction = int32_t(config<uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME));
  made.swizzle = int32_t(config<uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING));
  made.custom = int32_t(config<uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION));
  made.inner = config<uint16_t>(algorithm, CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID);
  made.cluster = config<uint16_t>(algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID);
  return made;
}

struct Preference {
  Preference(const Problem& problem, uint64_t workspace, uint32_t reductions) {
    check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate", problem);
    cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace));
    cublasLtMatmulPreferenceSetAttribute(made, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                                         sizeof(reductions));
  }
  ~Preference() { cublasLtMatmulPreferenceDestroy(made); }
  cublasLtMatmulPreference_t made = nullptr;
};

}  // namespace

// What the heuristic proposes under one preference, its best first.
SLIDESPARSE_EXPORT int slidesparse_heuristic(const Problem* problem, uint64_t workspace, uint32_t reductions,
                                             Candidate* found, int capacity, int* count) {
  return guarded([&] {
    Descriptors d(*problem);
    Preference preference(*problem, workspace, reductions);
    std::vector<cublasLtMatmulHeuristicResult_t> results(capacity);
    int returned = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle(), d.operation, d.weight, d.x, d.y, d.y,
                                                           preference.made, capacity, results.data(), &returned);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "cublasLtMatmulAlgoGetHeuristic", *problem);
    *count = 0;
    for (int i = 0; i < returned; ++i) {
      const auto& result = results[i];
      if (result.state == CUBLAS_STATUS_SUCCESS) {
        found[(*count)++] = candidate(result.algo, result.workspaceSize, result.wavesCount);
      }
    }
  });
}

// Every configuration that AlgoCheck accepts within `workspace` bytes. K is split only where the whole product leaves
// half of the multiprocessors idle. Of an algorithm that offers more than MOST_TILES tiles only the given ones are tried.
// `count` is what there is; no more than `capacity` are written.
SLIDESPARSE_EXPORT int slidesparse_enumerate(const Problem* problem, uint64_t workspace, const int32_t* tiles,
                                             int tile_count, Candidate* found, int capacity, int* count) {
  return guarded([&] {
    Descriptors d(*problem);
    int ids[MOST_IDS], returned = 0;
    check(cublasLtMatmulAlgoGetIds(handle(), d.compute, d.scale, d.input, d.input, d.output, d.output, MOST_IDS, ids,
                                   &returned),
          "cublasLtMatmulAlgoGetIds", *problem);
    *count = 0;
    auto waves = [&](const cublasLtMatmulAlgo_t& algorithm, std::size_t* needed) {  // -1: refused
      cublasLtMatmulHeuristicResult_t result = {};
      cublasStatus_t status =
          cublasLtMatmulAlgoCheck(handle(), d.operation, d.weight, d.x, d.y, d.y, &algorithm, &result);
      *needed = result.workspaceSize;
      return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= workspace ? result.wavesCount : -1.0f;
    };
    auto accepted = [&](const cublasLtMatmulAlgo_t& algorithm) {
      std::size_t needed = 0;
      float answer = waves(algorithm, &needed);
      if (answer < 0) return answer;
      if (*count < capacity) found[*count] = candidate(algorithm, needed, answer);
      ++*count;
      return answer;
    };
    auto clustered = [&](cublasLtMatmulAlgo_t algorithm, uint16_t cluster) {
      configure(algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, cluster);
      return algorithm;
    };
    for (int i = 0; i < returned; ++i) {
      cublasLtMatmulAlgo_t base;
      if (cublasLtMatmulAlgoInit(handle(), d.compute, d.scale, d.input, d.input, d.output, d.output, ids[i], &base) !=
          CUBLAS_STATUS_SUCCESS) {
        continue;
      }
      auto options = uint32_t(capability<int32_t>(base, CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX));
      auto swizzles = capability<uint32_t>(base, CUBLASLT_ALGO_CAP_CTA_SWIZZLING_SUPPORT);
      auto reductions = capability<uint32_t>(base, CUBLASLT_ALGO_CAP_REDUCTION_SCHEME_MASK);
      bool splits = capability<int32_t>(base, CUBLASLT_ALGO_CAP_SPLITK_SUPPORT) != 0;
      auto shapes = offered(base, CUBLASLT_ALGO_CAP_TILE_IDS);
      if (shapes.size() > MOST_TILES) shapes.assign(tiles, tiles + tile_count);
      for (uint32_t tile : shapes) {
        for (uint32_t stages : offered(base, CUBLASLT_ALGO_CAP_STAGES_IDS)) {
          for (uint32_t custom = 0; custom <= options; ++custom) {
            for (uint32_t swizzle = 0; swizzle <= swizzles; ++swizzle) {
              cublasLtMatmulAlgo_t algorithm = base;
              if (!configure(algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID, tile) ||
                  !configure(algorithm, CUBLASLT_ALGO_CONFIG_STAGES_ID, stages) ||
                  !configure(algorithm, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, custom) ||
                  !configure(algorithm, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, swizzle)) {
                continue;
              }
              float whole = accepted(algorithm);
              std::size_t needed;
              if (waves(clustered(algorithm, NO_CLUSTER), &needed) < 0) {  // else it does not look at the cluster
                for (uint16_t cluster : CLUSTERS) accepted(clustered(algorithm, cluster));
              }
              if (whole < 0 || whole > 0.5f || !splits) continue;
              for (int32_t split : {-1, 2, 3, 4, 6, 8, 12, 16}) {  // -1: in segments, inside one kernel
                for (uint32_t scheme : {1u, 2u, 4u}) {
                  if (!(reductions & scheme)) continue;
                  cublasLtMatmulAlgo_t divided = algorithm;
                  if (configure(divided, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, split) &&
                      configure(divided, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, scheme)) {
                    accepted(divided);
                  }
                }
              }
            }
          }
        }
      }
    }
  });
}
