"""Seeded mutations of what others send: each is used, or refused in one sentence; none hangs or ends in a traceback.

Some seconds in every run of the tests; fifteen times as many with `pytest -m drills`.
"""

import copy
import csv
import json
import os
import random
import tarfile

import pytest
import yaml

import synthetic
from bad_inputs import GENERATED
from places import ROOT
from slidesparse import models
from slidesparse.errors import SlideSparseError
from slidesparse.files import sealed
from slidesparse.models import checkpoints, safetensors_io
from slidesparse.plan.key import Configuration
from slidesparse.plan.matrix import validated
from slidesparse.points import status
from slidesparse.points.plan import read_plan
from slidesparse.report.sources.measured import read_configuration
from slidesparse.report.tables.gather import gather_all, read_points
from slidesparse.report.tables.point_rows import to_csv

EVIL = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    1e-300,
    1e300,
    0.5,
    "",
    "x",
    "../../x",
    "\x1b[2J",
    "a\nb",
    "²",
]
EVIL += ["M", "nan", "1e999", [], {}, [[]], {"": {}}, ["x"] * 50, {"a": None}, "a" * 5000, "\u202e", "--help", "$(x)"]

MAY_CHANGE = {"seconds", "utc", "git_commit", "git_dirty", "gpu_name", "gpu_uuid", "driver", "power_limit_w", "torch"}
MAY_CHANGE |= {"vllm", "reason", "protocol", "request_digest"}
"""Columns whose value nothing else in a point repeats: where, when and with what it was measured."""

OFTEN = [pytest.param(2, id="few"), pytest.param(30, id="many", marks=pytest.mark.drills)]
times = pytest.mark.parametrize("times", OFTEN)


def places(value, path=()):
    """Paths of all values in nested lists and dictionaries."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def mutated(value, draw):
    """A copy with one to three changes: a value replaced, deleted or doubled, or a name changed."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 3))):
        *parents, last = draw.choice([path for path in places(value) if path] or [("",)])
        holder = value
        for key in parents:
            holder = holder[key]
        if not isinstance(holder, (dict, list)) or (isinstance(holder, dict) and last not in holder):
            continue
        action = draw.randrange(6)
        if action == 0:
            del holder[last]
        elif action == 1 and isinstance(holder, dict):
            holder[draw.choice([str(item)[:50] for item in EVIL])] = holder.pop(last)
        elif action == 2 and isinstance(holder[last], (int, float)) and not isinstance(holder[last], bool):
            holder[last] = holder[last] * draw.choice((-1, 0.5, 1.5, 1000))
        else:
            holder[last] = copy.deepcopy(draw.choice(EVIL))
    return value


def survives(use, *arguments):
    """Whether `use` takes its arguments; a refusal is one sentence."""
    try:
        use(*arguments)
    except SlideSparseError as error:
        assert "\n" not in str(error) and len(str(error)) < 5000
        return False
    return True


@pytest.fixture(scope="module")
def kept():
    """A few points as they were measured on an H200, by stage."""
    found = {}
    archive = ROOT / "resources" / "measured" / "H200_cc90_py312_cu130_x86_64" / "points.tar.xz"
    with tarfile.open(archive) as tar:
        for member in tar:
            stage = member.name.split("/")[-6] if member.name.endswith(".json") else None
            if stage in ("kernel", "prefill", "decode") and stage not in found and "/cusparselt/2_8/" in member.name:
                found[stage] = (member.name, json.load(tar.extractfile(member)))
            if len(found) == 3:
                break
    return found


@times
def test_mutated_points_are_refused_or_say_the_same(kept, tmp_path, times):
    draw, accepted, changed = random.Random(1), 0, set()
    for name, point in kept.values():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        original = to_csv([point])
        for _ in range(34 * times):
            path.write_text(json.dumps(mutated(point, draw)))
            good, refused = read_points([path])
            assert len(good) + len(refused) == 1 and all("\n" not in sentence for sentence in refused)
            accepted += len(good)
            if good:
                changed |= differing(original, to_csv(good))
    assert accepted
    wrong = changed - MAY_CHANGE - UNCHECKED
    assert not wrong


@times
def test_mutated_points_that_have_a_digest_are_refused_or_equal(kept, tmp_path, times):
    draw = random.Random(6)
    for name, point in kept.values():
        path, digest = tmp_path / name, {"sha256": sealed(point)["sha256"]}
        path.parent.mkdir(parents=True)
        for _ in range(34 * times):
            change = mutated(point, draw)
            path.write_text(json.dumps(change | digest))
            assert read_points([path])[0] in ([], [point | digest]) or change == point


UNCHECKED = {"clock_mhz", "roofline_us", "roofline_pct", "roofline_limit", "process", "tokens_min", "tokens_max"}
UNCHECKED |= {"energy_j_per_token", "energy_reason", "max_num_seqs", "peak_memory_bytes", "latency_hot_us"}
UNCHECKED |= {"num_splits", "weight_bytes", "engine_start_s", "sequences_min", "sequences_max", "zero_rate"}
UNCHECKED |= {"best_dense", "best_dense_us", "best_dense_alg", "best_dense_linear", "best_dense_linear_us", "alg_id"}
UNCHECKED |= {f"speedup_{what}{end}" for what in ("best_dense", "linear") for end in ("", "_ci_low", "_ci_high")}
UNCHECKED |= {f"{what}_ci_{end}" for what in ("latency_us", "speedup_cublaslt", "step_ms") for end in ("low", "high")}
UNCHECKED |= {
    "algorithms",
    "alg_count",
    "alg_id_int32",
    "exact",
    "error_max_abs",
    "host_bound",
    "power_capped",
    "graph_mode",
    "launches",
    "sparse_linears",
}
"""Figures that no other one of a point checks. Among dense libraries a point may leave one out, or rename it. An engine
may leave out one of its linears. An interval is the protocol's where samples are gone. Points that are measured today
have a digest of all of it."""


def differing(one, other):
    """Columns of the second CSV that hold another value than in the first; what is gone is no wrong figure."""
    before, after = ({row.get("linear"): row for row in csv.DictReader(text.splitlines())} for text in (one, other))
    return {
        column
        for linear in before.keys() & after.keys()
        for column, value in after[linear].items()
        if value not in ("", before[linear][column])
    }


@times
def test_mutated_configurations_are_refused_or_planned(times):
    draw, good = random.Random(2), yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    for _ in range(60 * times):
        survives(validated, mutated(good, draw))


@times
def test_mutated_plans_and_failures_end_no_status_and_no_report(tmp_path, times):
    draw = random.Random(3)
    synthetic.plan(tmp_path, [("prefill", "BitNet-2B", "INT8", "cublaslt", "dense", M) for M in (512, 1024)])
    synthetic.write(tmp_path, "prefill", [512])
    path = tmp_path / synthetic.HARDWARE / "plan.json"
    plan = json.loads(path.read_text()) | {"parameters": {"prefill": {"steps": 24}}, "shapes": {"a": "b"}}
    failure = {
        "schema": 1,
        "reason": "x",
        "log": "x.log",
        "utc": "2026",
        "unless": {"host": "h", "pid": 1, "started": "1"},
    }
    record = synthetic.path(tmp_path, "prefill", 1024).with_suffix(".failed.json")
    for _ in range(40 * times):
        path.write_text(json.dumps(mutated(plan, draw)))
        record.write_text(json.dumps(mutated(failure, draw)))
        survives(status.screen, tmp_path)
        survives(read_plan, tmp_path, synthetic.HARDWARE)
        assert all("\n" not in sentence for sentence in gather_all(tmp_path, synthetic.HARDWARE))


@times
def test_mutated_tables_are_refused_or_read(tmp_path, times):
    draw = random.Random(4)
    for stage, M in (("prefill", 512), ("kernel", 64)):
        synthetic.write(tmp_path, stage, [M])
    gather_all(tmp_path, synthetic.HARDWARE)
    for table in sorted(tmp_path.glob("*/*/*/*/*/*/*.csv")):
        text, stage = table.read_text(), table.parts[-6]
        for _ in range(25 * times):
            cells = [line.split(",") for line in text.splitlines()]
            for _ in range(draw.choice((1, 2, 5))):
                row = draw.choice(cells)
                row[draw.randrange(len(row))] = str(draw.choice(EVIL))
            table.write_text("\n".join(",".join(row) for row in cells) + draw.choice(("\n", "", '"')))
            key = synthetic.path(tmp_path, stage, 1).relative_to(tmp_path).parts
            survives(read_configuration, table, synthetic.HARDWARE, stage, Configuration(*key[2:6]))


@times
def test_mutated_manifests_are_refused_or_served(tmp_path, times):
    draw, root = random.Random(5), tmp_path / "resources"
    model = models.fetch("tiny", GENERATED, root)
    checkpoint = checkpoints.convert(model, "INT8", "2_8", root, progress=False)
    for _ in range(15 * times):
        survives(models.ensure, mutated(model, draw), root)
        survives(checkpoints.ensure, mutated(checkpoint, draw), root)
    models.ensure(model, root)


@times
def test_mutated_safetensors_are_refused_or_read(tmp_path, times):
    draw, path = random.Random(6), tmp_path / "x.safetensors"
    header = {"__metadata__": {"format": "pt"}, "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}
    header["b"] = {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}
    for _ in range(300 * times):
        text = json.dumps(mutated(header, draw)).encode()
        if draw.random() < 0.2:
            text = bytearray(text)
            text[draw.randrange(len(text))] = draw.randrange(256)
        size = len(text) if draw.random() < 0.9 else draw.choice((0, 1, 2**40, 2**63))
        path.write_bytes(size.to_bytes(8, "little") + bytes(text) + os.urandom(draw.choice((16, 16, 15, 17, 0))))
        survives(safetensors_io.read_header, path)


def test_what_a_mutation_is():
    value = {"a": [1, {"b": 2}], "c": "x"}
    draw = random.Random(7)
    assert any(mutated(value, draw) != value for _ in range(10))
    assert value == {"a": [1, {"b": 2}], "c": "x"}
