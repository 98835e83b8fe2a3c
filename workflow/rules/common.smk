# The configuration, checked, and the matrix of points as a table: what is planned, in which order, with what.
import functools
import gc
import json
import sys

from snakemake.exceptions import WorkflowError

from slidesparse import program
from slidesparse.errors import SlideSparseError
from slidesparse.files import none_from_the_future, refuse_links_out, write_json
from slidesparse.machine import hardware
from slidesparse.plan import cluster, stock
from slidesparse.plan import matrix as configuration
from slidesparse.points import records, status
from slidesparse.tuning import choices

POINT = "results/{}/{}/{}/{}/{}/{}/M{}.json"
TABLE = "results/{0}/{1}/{2}/{3}/{4}/{5}/{2}-{3}_{1}.csv"

# Nearly all objects that planning makes stay, so that looking for garbage among them takes a quarter of its time.
gc.disable()

program.find_own_programs()
try:
    config = configuration.validated(config)
    PLANS = {key: configuration.planned(config, key) for key in configuration.hardware_keys(config)}
    MATRICES = {key: configuration.matrix(config, key) for key in PLANS}
    ROWS = [(key, *row) for key, rows in MATRICES.items() for row in rows + configuration.variants(rows, key)]
    LEFT_OUT = {key: configuration.left_out(config, key) for key in PLANS}
except SlideSparseError as error:
    raise WorkflowError(str(error))

LANGUAGES = config["report"]["languages"]
REPORTS = [f"results/{key}/report.{language}.md" for key in PLANS for language in LANGUAGES]
ENTRIES, SHAPES = configuration.entries(config), configuration.shapes(config)


@functools.cache
def measuring(key, stage):
    """Measuring parameters of a stage on one hardware, as JSON: a changed value measures the stage's points again."""
    how = (PLANS.get(key) or configuration.planned(config, key))["measure"][stage]
    return json.dumps(records.deciding(stage, how), sort_keys=True)


# The command of every measured point; plan.json tells its worker what else it will be asked for. In braces, so that the
# log has what the shell says of a program that was killed.
MEASURE = (
    "{{ python3 workflow/scripts/measure_point.py --output {output} --basis {input.basis} --tuning {input.tuning}"
    " --parameters {params.parameters:q} --peers {params.peers:q} --plan results/{wildcards.hardware}/plan.json"
    " --log {log} --owner $PPID --seat {resources.seat}; }} 2> {log}"
)


def variants(w):
    """Points of variants of stock vLLM, of which one is the best at an M."""
    best = POINT.format(w.hardware, w.stage, w.model, w.dtype, stock.BACKEND, "dense", w.m)
    return [str(path) for path in records.candidates(best).values()]


def tuned(w):
    """The tuning table, or the choices, of an engine point; models of one shape have them in common."""
    return f"results/{w.hardware}/tuning/{SHAPES[w.model]}/{w.dtype}/{w.backend}/{w.sparsity}.json"


def peers(w):
    """Dense backends that a kernel point is measured in turn with, and their tuning tables."""
    return configuration.peers("results", w.hardware, w.model, w.dtype, w.backend)


def candidates(w):
    """Backends that auto may choose, and their tuning tables."""
    dense = configuration.planned(config, w.hardware)["backends"]["dense"]
    return configuration.candidates("results", w.hardware, w.model, w.dtype, w.sparsity, dense)


def compared(w):
    """Kernel points that auto chooses by."""
    names = configuration.compared(w.hardware, w.sparsity)
    Ms = configuration.planned(config, w.hardware)["kernel"]["M"]
    return [POINT.format(w.hardware, "kernel", w.model, w.dtype, *name, M) for name in names for M in Ms]


def options(tables):
    """Backends and their tuning tables, where they have one, as programs take them."""
    return [f"{name}={table}" if table else name for name, table in tables.items()]


# Points by configuration. PRIORITY keeps the points of one engine together, in the order of the table; points of stock
# vLLM are chosen among its variants' and have no engine.
POINTS, PRIORITY = {}, {}
for hw, stage, model, dtype, backend, sparsity, m in ROWS:
    key = (hw, stage, model, dtype, backend, sparsity)
    POINTS.setdefault(key, []).append(POINT.format(*key, m))
    if backend != stock.BACKEND:
        PRIORITY.setdefault((hw, model, dtype, backend, sparsity, stage == "kernel"), len(ROWS) - len(PRIORITY))
TABLES = {key: TABLE.format(*key) for key in POINTS if key[4] not in stock.VARIANTS}


def planned(stage=None):
    """Every planned point and CSV (of one stage). The points too, or nobody would miss one that was deleted."""
    points = [point for key in POINTS if stage in (None, key[1]) for point in POINTS[key]]
    return points + [table for key, table in TABLES.items() if stage in (None, key[1])]


def engine_priority(w):
    return PRIORITY.get((w.hardware, w.model, w.dtype, w.backend, w.sparsity, False), 0)


# What a job asks of a cluster, by name of the resource: one value, or one for each hardware.
@functools.cache
def asked(name):
    values = {key: cluster.resources(config, key).get(name) for key in PLANS}
    return next(iter(values.values())) if len(set(values.values())) == 1 else lambda w: values.get(w.hardware)


# With several GPUs in one machine (--resources gpu=4) every engine, and every configuration of the kernel stage, has one
# of as many seats. A seat takes one job at a time and keeps to one GPU, so that no engine is loaded on two.
SEATS = int(getattr(workflow.global_resources.get("gpu"), "value", None) or 1)
SEAT = configuration.seats(PRIORITY, SEATS)
SEAT_NAMES = [f"seat{i}" for i in range(SEATS) if SEATS > 1]
for name in SEAT_NAMES:
    workflow.global_resources[name] = 1


def resources(kernel):
    """What jobs that measure or search take: a turn, a seat, and what a cluster is asked for."""

    def seat(w):
        return SEAT.get((w.hardware, w.model, w.dtype, w.backend, w.sparsity, kernel), 0)

    seats = {name: lambda w, name=name: int(name == f"seat{seat(w)}") for name in SEAT_NAMES}
    return {name: asked(name) for name in cluster.NAMES} | seats | {"seat": seat if SEAT_NAMES else 0, "turn": 1}


if config["hardware"] == "auto" and hardware.detect().note:
    print(hardware.detect().note, file=sys.stderr)
for key, omitted in LEFT_OUT.items():
    for item in omitted:
        print(f"{item['dtype']} is left out on {key}: {item['reason']}", file=sys.stderr)


# Only the process that runs jobs comes here, and no dry run does. The lock frees itself, whatever ends the process.
onstart:
    gc.freeze()
    gc.enable()
    program.hold_lock(".snakemake/slidesparse.lock")
    try:
        refuse_links_out("results", ".snakemake")
    except SlideSparseError as error:
        raise WorkflowError(str(error))
    none_from_the_future("results")
    cluster.cancel_left_over(".")
    for key in PLANS:
        write_json(f"results/{key}/plan.json", configuration.plan(config, key))
    status.accompany("workflow/scripts/show_status.py", "results", PLANS)
