"""What the report says of quality, from points to the first screen."""

import re

import pytest

import synthetic
from reports import (
    DENSE,
    H200,
    HARDWARE,
    MACHINE,
    SLID,
    SPARSE,
    compared,
    edit,
    gathered,
    markdown,
    ours,
    rows_under,
    set_column,
    step,
    text_of,
)
from slidesparse.errors import RecordError
from slidesparse.files import sealed, write_json
from slidesparse.points.request import PROTOCOL
from slidesparse.report.sources.measured import read_configuration
from slidesparse.report.sources.rows import Row
from slidesparse.report.tables.gather import gather_all

M = 4096


def scored(root, sparsity="dense", **figures):
    """Write a quality point of a checkpoint."""
    path = synthetic.path(
        root, "quality", M, backend="cublaslt" if sparsity == "dense" else "cusparselt", sparsity=sparsity
    )
    point = synthetic.point(path, protocol=PROTOCOL["quality"])
    point["results"] = synthetic.scores(M, point["results"]["reference"], **figures)
    write_json(path, sealed(point))
    return path


@pytest.fixture
def results(tmp_path):
    root = ours(tmp_path / "results")
    scored(root, nats=1.40, extra=0.01, divergence=0.002, agreeing=0.98)
    scored(root, "2_8", nats=1.60, extra=0.20, divergence=0.125, agreeing=0.75)
    assert gather_all(root, HARDWARE) == []
    return root


def test_the_first_screen_says_what_a_pattern_costs(results):
    text, refused = markdown(results)
    assert refused == []
    first = text.partition("## Does sparsity pay here?\n")[2].partition("\n## ")[0]
    assert "| bits per byte | KL over dense, nats/token |" in first
    assert re.search(r"^\| dense .*\| 1\.010 \| — \|$", first, re.MULTILINE)  # 1.40 nats, two bytes a token
    assert re.search(r"^\| 2:8 .*\| 1\.154 \(\+14\.3 %\) \| 0\.1250 \|$", first, re.MULTILINE)
    assert "not measured" not in first
    known, unknown = re.search(r"Known here: (.*?)\. Unknown here: (.*?)\.", first).groups()
    assert known.endswith(", quality") and "quality" not in unknown
    assert "Bits per byte: what the model needs" in first and "KL over dense: how far" in first


def test_the_first_screen_says_the_figures_of_the_text_and_their_base(tmp_path):
    """Memory makes the sentence on costs."""
    root = ours(tmp_path / "results")
    rows = [scored(root, nats=1.40, extra=0.01), scored(root, "2_8", nats=1.60, extra=0.20)]
    assert len(rows) == 2 and gather_all(root, HARDWARE) == []
    for place in ({}, SPARSE):
        set_column(gathered(root, **place), "weight_bytes", 2_000_000_000)
    text, _ = markdown(root)
    assert "Bits per byte of the text (lower is better), INT8: dense 1.010, 2:8 1.154." in text
    assert "| 2:8: memory × 1.00, energy unknown, bits per byte 1.154 against 1.010 |" in compared(root)


def test_the_comparison_counts_points_of_quality_where_a_gpu_has_some(results, tmp_path):
    text = compared(results)
    assert ["INT8 quality", "2/2"] in rows_under(text, "What passed, by type and stage")
    (row,) = rows_under(text, "What was measured")
    assert row[6:10] == ["4/4", "4/4", "16/16", "2/2"]
    without = compared(ours(tmp_path / "without"))
    for title in ("What passed, by type and stage", "What was measured"):
        assert "quality" not in without.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("tried", [False, True])
def test_quality_without_a_good_point_is_unknown_and_counted_only_if_it_was_tried(tried):
    rows = [step("prefill", name, 1024, ms) for name, ms in ((DENSE, 10.0), (SLID, 9.0))]
    rows += [Row(H200, "quality", DENSE, M, "failed", {}, MACHINE, reason="why")] * tried
    text = text_of(rows)
    assert ", quality." in re.search("Known here: .*?[.] Unknown here: .*?[.]", text)[0].partition("Unknown")[2]
    counted = text.partition("# Missing, failed, left out\n")[2].partition("\n#")[0]
    assert ("- quality: 0/1 points passed, 1 failed, 0 out of memory." in counted) == tried
    assert ("- quality" in counted) == tried


def test_the_table_names_what_each_checkpoint_is_compared_with(results):
    text, _ = markdown(results)
    R, dense, pruned = rows_under(text, "Quality")
    assert R[2:6] == ["R", "—", "1.0027 (0.9926–1.0127)", "4.015 (3.975–4.055)"]
    assert dense[2:5] == ["cublaslt/dense", "R", "1.0099 (0.9998–1.0200)"]
    assert pruned[2:4] == ["cusparselt/2_8", "dense"]
    assert pruned[6:] == [
        "0.1443 (0.1428–0.1457)",
        "0.12500 (0.12375–0.12625)",
        "1.2500 (1.2375–1.2625)",
        "75.0 (74.3–75.8)",
        "4,096",
        "1,024",
    ]


def test_a_report_without_quality_says_so(tmp_path):
    text, _ = markdown(ours(tmp_path / "results"))
    assert "What a pattern costs in accuracy was not measured." in text.partition("\n## Quality")[2]


def test_a_difference_may_be_below_zero_and_nothing_else(results):
    scored(results, "2_8", nats=1.2, extra=-0.1)
    assert gather_all(results, HARDWARE) == []
    path = gathered(results, "quality", **SPARSE)
    (row,) = read_configuration(path, HARDWARE, "quality", SLID)
    assert row.values["extra_bits_per_byte"] < 0
    edit(path, lambda text: re.sub(r",0\.05,", ",-0.05,", text, count=1))
    with pytest.raises(RecordError, match="divergence = -0.05"):
        read_configuration(path, HARDWARE, "quality", SLID)
