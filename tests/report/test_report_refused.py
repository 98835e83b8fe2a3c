"""What failed or was refused was measured, or asked for: no sentence says that nobody measured it."""

from dataclasses import replace

from reports import H200, step, text_of
from slidesparse.plan.key import Configuration
from slidesparse.report.sources.rows import Row

DENSE = Configuration("BitNet-2B", "INT8", "cublaslt", "dense")
HALF, AUTO = (Configuration("BitNet-2B", "INT8", backend, "2_4") for backend in ("cusparselt", "auto"))


def test_a_dense_engine_that_was_refused_was_measured():
    rows = [step("prefill", HALF, M, M / 100) for M in (1024, 2048)]
    text = text_of(rows, announced={"prefill": {DENSE: {1024}, HALF: {1024, 2048}}})
    assert "prefill: no speed-up over dense, because no dense engine gave a figure." in text
    assert "no dense backend was measured" in text_of(rows)


def test_sparse_engines_without_a_figure_were_measured():
    rows = [step("prefill", DENSE, M, M / 100) for M in (1024, 2048)]
    refused = {"announced": {"prefill": {DENSE: {1024, 2048}, HALF: {1024, 2048}}}}
    failed = [Row(H200, "prefill", AUTO, M, "failed", {}, reason="x") for M in (1024, 2048)]
    for text in (text_of(rows, **refused), text_of(rows + failed)):
        assert "No sparse engine could be held against a dense one: “All speed-ups” says why." in text
        assert "no sparse one gave a figure" in text
        assert "No sparse engine was measured" not in text and "No sparse kernel ran" not in text


def test_an_engine_of_dense_kernels_is_no_pattern_where_it_has_no_ratio():
    rows = [step("prefill", name, M, M / rate) for M in (1024, 2048) for name, rate in ((DENSE, 100), (HALF, 125))]
    rows += [step("prefill", AUTO, M, M / 100, sparse_linears=0) for M in (1024, 2048)]
    assert "2:4 auto" not in text_of(rows)
    other = [replace(row, provenance=row.provenance._replace(driver="590")) for row in rows[-2:]]
    assert "2:4 auto" not in text_of(rows[:-2] + other)
    assert "no sparse kernel ran in INT8 auto/2_4" in text_of(rows[:-2] + other)
