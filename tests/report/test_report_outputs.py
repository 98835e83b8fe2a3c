"""What is said of products of others whose output types differ, or are not recorded."""

import pytest

from foreign import KERNELS
from reports import PUBLISHED, compared, edit, markdown, rows_under

NAMES = ", ".join(f"cusparselt/2_{L}" for L in (4, 6, 8, 10, 12, 14, 16, "inf"))
HALF = KERNELS.format("cuSPARSELt") + "/INT8/alg_search_BitNet-2B-INT8_2_4.csv"
OF_2_4 = "kernel BitNet-2B INT8 cusparselt/2_4, sum of hot GEMM"


def line_of(text, *words):
    """The first line that holds all words."""
    return next(line for line in text.splitlines() if all(word in line for word in words))


def test_unlike_outputs_of_published_products_are_told():
    text, _ = markdown(PUBLISHED)
    assert f"Unlike outputs, by the heads of these files: {NAMES}, BF16 outputs against INT32." in text
    assert "speed of the GEMMs (hot), BF16 outputs against INT32" in text
    line = line_of(text, "INT8 at M=16384", "speed-up of the GEMMs")
    shown = NAMES.partition(", cusparselt/2_12")[0]
    assert line.endswith(f" 1.01 and 1.07; unlike outputs: {shown}, BF16 outputs against INT32.")


def test_outputs_of_other_patterns_are_not_those_of_one(copy):
    edit(copy / HALF, lambda text: text.replace("INT8 -> BF16", "INT8 -> INT32"))
    text, _ = markdown(copy)
    assert "BF16, INT32" not in text
    others = NAMES.partition(", ")[2]
    assert f"Unlike outputs, by the heads of these files: {others}, BF16 outputs against INT32." in text
    line = line_of(text, "INT8, sum of hot GEMM", "the largest ratio is")
    assert "with cusparselt/2_4" in line and "outputs against" not in line


def test_gpus_with_unlike_outputs_say_so_in_sentences_and_above_tables():
    text = compared(PUBLISHED)
    line = line_of(text, OF_2_4, "geometric mean")
    assert "RTX4090 1.53 (BF16 outputs against INT32), H100 1.44 (unrecorded outputs)." in line
    rows_under(text, "kernel BitNet-2B INT8, sum of hot GEMM latencies of a layer, over cublaslt/dense")
    assert f"RTX4090: Unlike outputs, by the heads of these files: {NAMES}, BF16 outputs against INT32." in text
    assert "Measured in unlike ways: BF16 outputs against INT32; unrecorded outputs." in text


@pytest.mark.parametrize("said", ["INT8 -> not recorded", "INT8"])
def test_an_output_that_one_side_does_not_record_is_unlike(copy, said):
    edit(copy / HALF, lambda text: text.replace("INT8 -> BF16", said))
    assert "cusparselt/2_4, unrecorded outputs against INT32; cusparselt/2_6" in markdown(copy)[0]
