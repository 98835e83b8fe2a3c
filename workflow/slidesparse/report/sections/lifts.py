"""The section on published quantise-and-lift kernels, from the tidy tables."""

from slidesparse.report.document.model import Section, Table, fixed, number, say
from slidesparse.report.sources.rows import pattern_length


def lift_blocks(source):
    """Latency of the fused kernel that quantises and lifts, and its ratio to a copy of the same bytes."""
    blocks = []
    for model, dtype in sorted({(row["model"], row["dtype"]) for row in source.lifts}):
        rows = {
            (row["M"], row["sparsity"]): row
            for row in source.lifts
            if (row["model"], row["dtype"]) == (model, dtype) and row["kernel"] == "quant_slide"
        }
        patterns = sorted({sparsity for _, sparsity in rows}, key=pattern_length)
        cells = []
        for M in sorted({M for M, _ in rows}):
            values = [rows.get((M, sparsity)) for sparsity in patterns]
            shown = [
                row and number(f"{fixed(row['latency_us'], 2)} ({fixed(row['ratio_to_memcpy'], 2)})", row["latency_us"])
                for row in values
            ]
            cells.append((number(str(M), M), *shown))
        K = ", ".join(str(K) for K in sorted({row["K"] for row in rows.values()}))
        title = say("kernel {model} {dtype} quantise and lift, K={K}, cold latency (µs)", model=model, dtype=dtype, K=K)
        note = say(
            "The smallest of several samples, cache cleared in between; in brackets the ratio to copying the row."
        )
        blocks.append(Section(title, [note, Table(f"lift_{model}_{dtype}", ("M", *patterns), cells)], folded=True))
    return blocks
