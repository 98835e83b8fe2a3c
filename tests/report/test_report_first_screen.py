"""The first screen: what stands below the answer, and what costs and counts are of."""

from reports import DENSE, SLID, kernel, step, text_of

STOCK = DENSE._replace(backend="vllm")


def engines(stage, Ms, dtype="INT8", **more):
    """Rows of a dense engine and of one with 2:8, which is faster."""
    paces = (DENSE, 100), (SLID, 125)
    return [step(stage, name._replace(dtype=dtype), M, M / pace, **more) for name, pace in paces for M in Ms]


def lines(rows):
    """The paragraphs of the first screen."""
    return [line for line in text_of(rows).partition("## Does sparsity pay here?\n")[2].splitlines() if line]


def test_the_gain_without_sparsity_stands_below_the_headline():
    rows = engines("prefill", (1024, 2048)) + [step("prefill", STOCK, M, M / 50) for M in (1024, 2048)]
    _, headline, below, *_ = lines(rows)
    assert headline.startswith("Prefill, by the clock: 2:8 pays")
    assert below == "Without sparsity, the fastest dense engine over stock vLLM: prefill, by the clock, INT8 2.00."


def test_energy_in_decode_is_told_where_it_is_above_that_of_dense():
    rows = engines("prefill", (512, 1024), weight_bytes=2e9, energy_j_per_token=0.002)
    rows += engines("decode", (64, 128), energy_j_per_token=0.004)
    costs = "Memory and prefill energy over dense (M=1024): 2:8 INT8 × 1.00 and × 1.00"
    assert f"{costs}." in text_of(rows)
    rows[-1].values.update(energy_j_per_token=0.005, host_bound=True)
    assert f"{costs}; decode energy above dense (M=128): 2:8 INT8 × 1.25 †." in text_of(rows)


def test_types_of_unlike_M_have_their_own():
    costs = {"weight_bytes": 2e9, "energy_j_per_token": 0.002}
    rows = engines("prefill", (512,), **costs) + engines("prefill", (1024,), "FP8", **costs)
    wanted = "dense: 2:8 INT8 × 1.00 and × 1.00 (M=512); 2:8 FP8 × 1.00 and × 1.00 (M=1024)."
    assert f"Memory and prefill energy over {wanted}" in text_of(rows)


def test_kernels_are_counted_by_linear():
    text = text_of([*kernel(DENSE, 64, 10.0), *kernel(SLID, 64, 9.0)])
    assert "kernel: 8/8 linears passed, 0 points failed, 0 out of memory." in text
    assert "× 4 linears = 8." in text
    apart = text_of([*kernel(DENSE, 64, 10.0), *kernel(SLID, 64, 9.0), *kernel(SLID, 128, 9.0)])
    assert "A kernel point counts once for each of its linears." in apart
