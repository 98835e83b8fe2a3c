"""Files of others, as tests change them: the published layout of an RTX 4090, and tidy tables."""

from pathlib import Path

from reports import HARDWARE
from slidesparse.sparsity.patterns import Pattern

KERNELS = "benchmark_kernel/{}/alg_search_results/" + HARDWARE
RUNS = "throughput_benchmark_results/{}/RTX4090_cc89_{}_py312_cu129_x86_64"
INT8 = RUNS.format("prefill", "INT8")
DENSE = f"{INT8}/cublaslt/BitNet-2B-INT8_prefill.csv"
SLID = f"{INT8}/cusparselt/2_8/BitNet-2B-INT8_prefill.csv"
SEARCH = KERNELS.format("cuSPARSELt") + "/INT8/alg_search_BitNet-2B-INT8_2_8.csv"

THROUGHPUT = (
    "gpu,cc,stage,dtype,model,backend,sparsity,M,prompt_len,output_len,max_num_seqs,num_prompts,requests_per_s,"
    "tokens_per_s,elapsed_s,steps,ms_per_step,total_tokens,source\n"
)
KERNEL = (
    "gpu,cc,dtype,model,backend,sparsity,M,N,K,K_expanded,latency_us,tops,eff_tops,alg_id,split_k,workspace,alg_count\n"
)


def run_row(rate, M=512, dtype="INT8", backend="cuBLASLt", pattern="dense"):
    """A row of a tidy table of prefill, with one prompt of M tokens in each of 128 steps."""
    figures = f"{rate},{rate * (M + 1)},{128 / rate:.5f}"
    step = f"{1000 / rate:.4f},{128 * (M + 1)}"
    return f"RTX4090,89,prefill,{dtype},BitNet-2B,{backend},{pattern},{M},{M},1,1,128,{figures},128,{step},x\n"


def search_row(us, M=64, N=2560, K=2560, dtype="FP8", backend="cuBLASLt", pattern="dense"):
    """A row of a tidy table of kernels."""
    slid = Pattern(pattern).K_slid(K)
    tops = ",".join(str(2 * M * N * length / us / 1e6) for length in (slid, K))
    return f"RTX4090,89,{dtype},BitNet-2B,{backend},{pattern},{M},{N},{K},{slid},{us},{tops},1,,0,8\n"


def tidy(root, **tables):
    """Write tidy tables; returns their folder."""
    folder = Path(root, "tidy", HARDWARE)
    folder.mkdir(parents=True)
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def configurations(source, stage="prefill"):
    return {row.configuration[1:] for row in source.stage(stage)}
