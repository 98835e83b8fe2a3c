"""Paths that a call asks for: what nothing makes is refused with what is near, everything else is left to Snakemake."""

import re

import pytest

from configured import CPU, RTX4090, overlaid, read
from slidesparse.errors import ConfigurationError
from slidesparse.plan.matrix import validated
from slidesparse.plan.table import Table
from slidesparse.plan.targets import refuse_unknown

POINT = f"results/{CPU}/prefill/BitNet-small/INT8/reference/2_8/M128.json"
REPORTS = [f"results/{CPU}/report.en.md", "results/comparison.en.md"]
CONFIGURATION = r"(?P<model>[^/]+)/(?P<dtype>INT8|FP8)/(?P<backend>[a-z]+)/(?P<sparsity>dense|2_\d+)"
STAGE = rf"results/(?P<hardware>[^/]+_cc[^/]+)/(?P<stage>prefill|decode)/{CONFIGURATION}"
RULES = [
    rf"{STAGE}/M(?P<m>\d+)[.]json",
    rf"{STAGE}/[^/]+[.]csv",
    rf"results/checkpoints/{CONFIGURATION.replace('/(?P<backend>[a-z]+)', '')}[.]json",
    r"results/(?P<hardware>[^/]+_cc[^/]+)/report[.]en[.](md|html)",
]
"""The paths that rules make, as Snakemake would match them."""


@pytest.fixture
def refuse(tmp_path, monkeypatch):
    """Refuses words of a call, in an empty directory; the plan is the default one of a CPU."""
    monkeypatch.chdir(tmp_path)
    table = Table(validated(overlaid(read(), {"hardware": CPU})))

    def makers(path):
        return [match.groupdict() for rule in RULES if (match := re.fullmatch(rule, path))]

    return lambda *words: refuse_unknown(words, table, makers, REPORTS)


@pytest.mark.parametrize(
    ("path", "why", "near"),
    [
        (
            "results/prefill/typo.json",
            "no rule makes it",
            f"results/{CPU}/prefill/BitNet-small/INT8/onednn/dense/M128.json",
        ),
        (POINT.replace("prefill", "prefil"), "no rule makes it", POINT),
        (POINT.replace("INT8", "INT9"), "no rule makes it", POINT),
        (POINT.replace(CPU, "{hardware}"), "no rule makes it", POINT),
        (POINT.replace("small", "smal"), "no model is named BitNet-smal", POINT),
        (POINT.replace("reference", "refernce"), "no backend is named refernce", POINT),
        (POINT.replace("2_8", "2_7"), "2_7 is no pattern", POINT),
        (f"./results//{POINT.removeprefix('results/')[:-5]}.jsn", "no rule makes it", POINT),
        (REPORTS[0].replace(CPU, RTX4090), f"{RTX4090} is not planned", REPORTS[0]),
        ("results/comparison.fr.md", "no rule makes it", "results/comparison.en.md"),
        (
            f"results/{CPU}/prefill/BitNet-small/INT8/auto/dense/BitNet-small-INT8_prefill.csv",
            "no point of it is planned",
            f"results/{CPU}/prefill/BitNet-small/INT8/onednn/dense/BitNet-small-INT8_prefill.csv",
        ),
        ("results/checkpoints/BitNet-smal/INT8/dense.json", "no model is named BitNet-smal", None),
        ("results/" + "x" * 5000 + "\n", "no rule makes it", None),
    ],
)
def test_a_path_that_nothing_makes_is_refused_with_a_near_one(refuse, path, why, near):
    with pytest.raises(ConfigurationError) as error:
        refuse("--cores", "1", path)
    assert f" cannot be made, because {why}; near is {near or ''}" in str(error.value)
    assert "\n" not in str(error.value) and (not near or str(error.value).endswith(f"near is {near}"))


@pytest.mark.parametrize(
    "words",
    [
        [POINT],
        [POINT.replace("M32", "M33")],
        [POINT.replace(CPU, RTX4090)],
        [REPORTS[0].replace(".md", ".html")],
        ["results/checkpoints/BitNet-tiny/FP8/2_6.json"],
        ["--report", "results/mine.html"],
        ["--directory", "results/elsewhere", "all"],
        ["prefil"],
        ["elsewhere/results/a.json"],
    ],
)
def test_what_may_be_asked_for_is_left_to_snakemake(refuse, words):
    refuse(*words)


def test_a_file_that_is_there_may_be_asked_for(refuse, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/mine.txt").touch()
    refuse("results/mine.txt")
