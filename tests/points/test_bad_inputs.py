"""Whatever is wrong with the configuration or with a file of results, a user reads one sentence that names it."""

from pathlib import Path

import pytest

import synthetic
from bad_inputs import GENERATED, SHA, Place, refused
from slidesparse import errors, models, program
from slidesparse.machine import hardware, naming
from slidesparse.plan import matrix
from slidesparse.plan.key import Key
from slidesparse.points import measure as points
from slidesparse.points.strict import read_csv
from slidesparse.points.validate import read_point
from slidesparse.tuning.table import Table


class Results(Place):
    """A folder of results."""

    def point(self, change):
        """Read a point whose text was changed."""
        (file,) = synthetic.write(self.directory, "prefill", [512])
        file.write_text(change(file.read_text()))
        read_point(file, SHA)

    def table(self, content):
        Table.read(self.write("table.json", content), "onednn 3.4")

    def csv(self, content):
        read_csv(self.write("some.csv", content), {"M": int, "latency_us": float, "exact": bool})

    def measure(self, **files):
        """Measure a kernel point of this machine from files that are there."""
        base = self.directory / "results" / hardware.key()
        table = self.write("table.json", "{}")
        shape = self.write("shape.json", files.get("shape", models.describe("tiny", GENERATED)))
        output = base / "kernel" / "tiny" / "INT8" / "onednn" / "dense" / "M16.json"
        worker = program.Worker(False, None, {})
        points.measure(output, shape, table, {}, peers={}, resources=self.directory, log=None, worker=worker)

    def plan(self, content):
        class Arguments:
            plan, no_resident, owner = str(self.write("plan.json", content)), True, None

        program.worker(Arguments)


@pytest.fixture
def place(tmp_path):
    return Results(tmp_path)


def configured(**change):
    return lambda place: matrix.validated(change)


def registered(name="Mine", **change):
    return configured(registry={name: GENERATED | change})


def cut(text):
    return text[:-40]


def replaced(old, new):
    return lambda text: text.replace(old, new)


Configuration, Record, Hardware = errors.ConfigurationError, errors.RecordError, errors.HardwareError
ROW = "M,latency_us,exact\n"

BAD = {
    # configuration
    "a command as a model's name": (registered("A; touch x"), Configuration, "is not a usable name for a model"),
    "a model's name that climbs": (registered("../up"), Configuration, "is not a usable name for a model"),
    "a line break in a model's name": (registered("A\n"), Configuration, "a line break"),
    "a line break in a hardware key": (configured(hardware=synthetic.HARDWARE + "\n"), Configuration, "a line break"),
    "an escape sequence in a path": (registered(source="local", path="\x1b[2J"), Configuration, "cannot be printed"),
    "a command as a repository": (
        registered(source="hub", repository="a/$(touch x)", revision="main"),
        Configuration,
        "must be the name of a repository",
    ),
    "an option as a revision": (
        registered(source="hub", repository="a/b", revision="--help"),
        Configuration,
        "must be a branch",
    ),
    "a command as a source": (configured(report={"sources": ["$(touch x)"]}), Configuration, "the path of a directory"),
    "an option as a source": (configured(report={"sources": ["--output"]}), Configuration, "the path of a directory"),
    "a model that is not there": (configured(models=["../../etc"]), Configuration, "but the registry has"),
    "an unknown key": (configured(kernal=1), Configuration, "did you mean kernel"),
    "a pattern that YAML reads as a number": (
        configured(kernel={"M": [64], "sparsity": [28]}),
        Configuration,
        'so quote it: "2_8"',
    ),
    "no rows": (configured(kernel={"M": [0]}), Configuration, "must be a positive whole number"),
    "an entry without a shape": (lambda place: models.describe("A", {}), Configuration, r"registry\.A\.shape lacks"),
    # paths
    "no point's path": (lambda place: Key.of("results/point.json"), Record, "is not the path of a point"),
    "a negative M": (lambda place: Key.of(f"{synthetic.path(Path('r'), 'decode', -1)}"), Record, "M-1.json"),
    "another file beside the points": (
        lambda place: Key.of(synthetic.path(Path("r"), "decode", 1).with_suffix(".log")),
        Record,
        "is not the path of a point",
    ),
    # hardware keys
    "half a hardware key": (lambda place: naming.parse("RTX4090"), Hardware, "is not a hardware key"),
    "a hardware key that climbs": (lambda place: naming.parse("../../etc"), Hardware, "is not a hardware key"),
    "a CPU that computes": (lambda place: naming.parse("cpu-x_cc80_py311_cu0_x86_64"), Hardware, "is not a hardware"),
    "another machine's key": (lambda place: hardware.check(synthetic.HARDWARE), Hardware, "measure them there"),
    # shapes and plans
    "a shape without linears": (lambda place: place.measure(shape={}), Record, "does not describe the linears"),
    "a plan that is a list": (lambda place: place.plan([]), Record, "is no plan"),
    "a plan that was cut": (lambda place: place.plan('{"points": '), Record, "is not JSON"),
    # points
    "a point that was cut": (lambda place: place.point(cut), Record, "is damaged"),
    "a point that took no time": (
        lambda place: place.point(replaced('"elapsed_s": 1.28', '"elapsed_s": 0')),
        Record,
        "elapsed_s",
    ),
    "a point that is not a number": (
        lambda place: place.point(replaced('"seconds": 2.5', '"seconds": NaN')),
        Record,
        "NaN is no number",
    ),
    "a point of another M": (lambda place: place.point(replaced('"M": 512', '"M": 7')), Record, "its key says M 7"),
    "a point of a later schema": (lambda place: place.point(replaced('"schema": 1', '"schema": 2')), Record, "schema"),
    "a point that answers another request": (
        lambda place: place.point(replaced(SHA, "1" * 64)),
        Record,
        "answers another request",
    ),
    # CSV files
    "a CSV that was cut": (lambda place: place.csv(ROW + "16,1.5,true"), Record, "is truncated"),
    "a CSV that lacks a column": (lambda place: place.csv("M,exact\n16,true\n"), Record, "missing column latency_us"),
    "a CSV with a word for a number": (
        lambda place: place.csv(ROW + "16,fast,true\n"),
        Record,
        "row 1, column latency",
    ),
    "a CSV that is no text": (lambda place: place.csv(b"\xff\xfe"), Record, "not UTF-8"),
    # tuning tables
    "a table that is no JSON": (lambda place: place.table("{"), Record, "is not a tuning table"),
    "a table without entries": (lambda place: place.table({"library": "onednn 3.4"}), Record, "is not a tuning table"),
    "a table that is a list": (lambda place: place.table([1]), Record, "is not a tuning table"),
    "a table of another version": (
        lambda place: place.table({"library": "onednn 3.3", "quantize_lift": [], "entries": []}),
        Record,
        "was tuned with onednn 3.3 and this is onednn 3.4",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_sentence_names_what_is_wrong(place, case):
    refused(place, *BAD[case])
