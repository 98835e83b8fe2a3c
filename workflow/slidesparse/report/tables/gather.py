"""The points of one configuration -> its CSV, or a sentence for each point that is refused."""

import csv
import os
import re
from contextlib import suppress
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import canonical_json, inside, is_plain, leads_out, printable, read_text, write_atomic
from slidesparse.plan import prompts, stock
from slidesparse.plan.backends import STAGES, deciding
from slidesparse.plan.key import Key, is_pattern, root_of
from slidesparse.points.plan import Plan, read_plan
from slidesparse.points.request import expected_digests, linears, variant_paths
from slidesparse.points.strict import parse_csv, read_json, refuse_zeros
from slidesparse.points.validate import AGAIN, check_digest, check_seal, read_point
from slidesparse.program import sentence
from slidesparse.report.sources.rows import HARDWARE
from slidesparse.report.tables.columns import COLUMNS, M_COLUMN, OTHER_PROMPTS, POSITIVE
from slidesparse.report.tables.point_rows import to_csv

SHOWN = 5
"""Most refused points that one sentence names."""


def gather(point_paths, output_csv, expected=None):
    """Write the CSV of the points of one configuration, atomically. The same points give the same bytes.

    point_paths: files `{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/M{m}.json`, in any order.
    expected: path -> request digest (hex) that the point must answer; None is not checked. It must have exactly these
    paths. Without `expected`, neither is checked.

    Returns the number of rows. If a point is refused, it writes nothing and raises RecordError that names the points.
    """
    points, refused = read_points(point_paths, expected)
    if refused:
        more = f" (and {len(refused) - SHOWN} more)" if len(refused) > SHOWN else ""
        raise RecordError("; ".join(refused[:SHOWN]) + more)
    if expected is not None:
        there = set(point_paths)
        for problem, paths in (("lacks", set(expected) - there), ("was not asked for", there - set(expected))):
            if paths:
                names = ", ".join(sorted(Path(path).name for path in paths))
                raise RecordError(f"{output_csv} cannot be gathered: its configuration {problem} {names}")
    text = to_csv(points)
    write_atomic(output_csv, text)
    return text.count("\n") - 1


def rows_of(path):
    """{(M, prompt): digest of the request} of the rows of a gathered CSV; empty if it cannot be read."""
    try:
        header, *rows = csv.reader(read_text(path).splitlines())
        M = next(header.index(column) for column in M_COLUMN.values() if column in header)
        digest, prompt = header.index("request_digest"), header.index("prompt") if "prompt" in header else None
        return {(int(row[M]), prompts.USUAL if prompt is None else int(row[prompt])): row[digest] for row in rows}
    except (OSError, ValueError, IndexError, StopIteration, csv.Error):
        return {}


def read_points(paths, expected=None, parameters=None):
    """(valid points of one configuration sorted by prompt and M, one sentence for each refused file).

    expected: as for `gather`.
    parameters: how the plan measures; a point that was measured in another way is told from a stale one.
    """
    points, refused = {}, []
    for path in sorted(paths, key=str):
        try:
            point = read_point(path)
            key = Key.of(path)
            if expected and path in expected:
                asked = parameters and prompts.measuring(key.stage, parameters, key.prompt)
                refuse_other_request(path, point, expected[path], asked)
            first = next(iter(points.values()), point)
            check_shape(path, point)
            if configuration_of(point) != configuration_of(first):
                raise RecordError(f"{path} is of another configuration than the points beside it")
            if (key.prompt, key.M) in points:
                raise RecordError(f"{path} is a second point for M={key.M}")
            refuse_unreadable(path, point)
            points[key.prompt, key.M] = point
        except RecordError as error:
            refused.append(str(error))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            refused.append(f"{path} is damaged: no row can be made of it ({type(error).__name__}); {AGAIN}")
    return [points[step] for step in sorted(points)], refused


def refused_variants(paths):
    """One sentence for each point of a variant of stock vLLM that was changed or damaged. No row is made of it.

    paths: the points that were chosen from variants; other points have none.
    """
    refused = []
    for variant in (variant for path in paths for variant in variant_paths(path).values()):
        try:
            if os.path.exists(variant):
                check_seal(variant, read_json(variant))
        except RecordError as error:
            refused.append(str(error))
    return refused


def refuse_unreadable(path, point):
    """Raise RecordError unless a point of the right form gives rows that can be read again."""
    stage = point["key"]["stage"]
    rows, _ = parse_csv(path, to_csv([point]), COLUMNS[stage], optional=OTHER_PROMPTS)
    refuse_zeros(path, rows, POSITIVE[stage])


def refuse_other_request(path, point, digest, parameters):
    """Raise RecordError if a point answers another request than that of `digest` (hex; None is not checked)."""
    if digest is not None and point["request"]["digest"] == digest:
        check_digest(path, point, digest)
        return
    there = differences(point["request"]["parameters"], parameters or {}) if parameters is not None else []
    if there:
        raise RecordError(f"{path} is of another configuration ({'; '.join(there)}), so it is in no CSV of this plan")
    if digest is not None:
        check_digest(path, point, digest)


def differences(stored, planned):
    """`name 6, the plan has 5` for each parameter that differs, at most `SHOWN`."""
    names = [name for name in sorted({*stored, *planned}) if stored.get(name) != planned.get(name)]
    return [f"{printable(name):.40} {said(stored, name)}, the plan has {said(planned, name)}" for name in names[:SHOWN]]


def said(parameters, name):
    """A parameter's value as text, cut at 40 characters."""
    return f"{printable(canonical_json(parameters[name])):.40}" if name in parameters else "none"


def check_shape(path, point):
    """Raise RecordError if the linears of a kernel point are not those of the model's shape.json in the same tree."""
    gemms = point["results"].get("gemms") if point["key"]["stage"] == "kernel" else None
    shape = Path(Key.of(path).basis(root_of(path)))
    if not gemms or not os.path.isfile(shape):
        return
    try:
        said = {each["name"]: (each["N"], each["K"]) for each in linears(shape)}
    except RecordError:  # who needs the shape says so
        return
    if sorted(gemm["name"] for gemm in gemms) != sorted(said):
        names = ", ".join(f"{gemm['name']:.40}" for gemm in gemms[:8])
        raise RecordError(f"{path} has the linears {names}, but {shape} has {', '.join(sorted(said))}; {AGAIN}")
    for gemm in gemms:
        known = said.get(gemm["name"])
        if known != (gemm["N"], gemm["K"]):
            says = f"N={known[0]}, K={known[1]}" if known else "nothing of it"
            has = f"{gemm['name']:.80} has N={gemm['N']}, K={gemm['K']}"
            raise RecordError(f"{path}: {has}, but {shape} says {says}; {AGAIN}")


def configuration_of(point):
    """The key of a point without its M and prompt."""
    return {name: value for name, value in point["key"].items() if name not in ("M", "prompt")}


def gather_all(results, hardware):
    """Gather all configurations of one hardware key that have points; only CSVs whose content changes are rewritten.

    A point is refused if it is damaged, or if it is planned but answers another request than the plan's: a stale one,
    or one that was measured with another configuration. All other points are gathered. Where all are refused or gone,
    an earlier CSV is renamed. Returns one sentence for each refused file.
    """
    refused = []
    try:
        plan = read_plan(results, hardware) or Plan()
    except RecordError as error:
        plan, refused = Plan(), [str(error)]
    refused += unreadable_folders(Path(results, hardware))
    for directory in configuration_directories(results, hardware):
        stage, *names = directory.parts[-5:]
        paths = point_files(directory)
        if not is_usable(directory):
            refused.append(f"{directory} does not belong there: its name is no sparsity, or one that files cannot have")
            continue
        if leads_out(results, directory):
            refused.append(
                f"{directory} leads out of {results} by a link, so nothing is gathered there: remove the link"
            )
            continue
        planned = [path for path in paths if plan.asks(Key.of(path))]
        try:
            digests = expected_digests(planned, plan.parameters[stage]) if stage in plan.parameters else {}
        except RecordError as error:
            digests, refused = {}, [*refused, str(error)]
        parameters = deciding(stage, plan.parameters[stage]) if stage in plan.parameters else None
        points, sentences = read_points(paths, digests, parameters)
        refused += sentences
        refused += refused_variants(paths)
        refused += [f"{path} has no name of a point, such as M16.json: remove it" for path in stray_files(directory)]
        try:
            table = inside(directory, f"{names[0]}-{names[1]}_{stage}.csv")
            if points:
                write_if_changed(table, to_csv(points))
            elif os.path.exists(table) and (why := outlived(directory, paths)):
                # it may be the last that holds their figures
                aside = table.replace(table.with_name(f"{table.name}.old"))
                refused.append(f"{table} is of points that are {why}: its figures are in {aside.name}")
        except (RecordError, PermissionError) as error:  # of one folder, which may be another user's
            refused.append(sentence(error))
    return refused


def outlived(directory, paths):
    """What became of the points of a CSV if none is left, or None. A CSV that was copied alone has no logs beside it.

    paths: the points of its folder.
    """
    if not paths:
        return "gone" if any(directory.glob("M*.log")) else None
    return None if read_points(paths, {}, None)[0] else "all refused"  # whatever is asked for


def unreadable_folders(root):
    """One sentence for each folder below `root` that cannot be read, such as another user's."""
    errors = []
    for _ in os.walk(root, onerror=errors.append):
        pass
    refused = [error for error in errors if not isinstance(error, FileNotFoundError)]
    return [f"{error.filename} cannot be read ({error.strerror}), and nothing in it" for error in refused]


def closed_folders(root):
    """One sentence for each folder directly below `root` that this user may not enter: it has no known hardware key."""
    folders = (path for path in sorted(Path(root).glob("*")) if os.path.isdir(path))
    return [f"{path} cannot be read, and nothing in it" for path in folders if not os.access(path, os.R_OK | os.X_OK)]


def point_files(directory):
    """Files in a configuration's folder that have the name of a point, which has no zeros in front."""
    return sorted(path for path in directory.glob("M*.json") if re.fullmatch(f"M{prompts.NAME}", path.stem))


def stray_files(directory):
    """Files in a configuration's folder that look like points and have no name of one, such as M016.json."""
    named = {*point_files(directory), *directory.glob("*.failed.json")}
    return sorted(path for path in directory.glob("[Mm]*.json") if path not in named)


def is_usable(directory):
    """Whether the path of a configuration's folder has valid names, so that its CSV can be named after it."""
    _, model, dtype, _, sparsity = directory.parts[-5:]
    usual = prompts.apart(model)[0] == model
    return is_pattern(sparsity) and usual and is_plain(f"{model}-{dtype}_prefill.csv")


def configuration_directories(root, hardware, variants=False):
    """Sorted directories `{stage}/{model}/{dtype}/{backend}/{sparsity}` of one hardware key below a root.

    variants: those of the variants of stock vLLM, or else those of all other backends.
    """
    found = [path for stage in STAGES for path in sorted(Path(root, hardware, stage).glob("*/*/*/*"))]
    directories = filter(os.path.isdir, found)
    return [directory for directory in directories if (directory.parts[-2] in stock.VARIANTS) == variants]


def hardware_directories(root):
    """Hardware keys that have results directly below a root, sorted; a report alone does not count."""
    names = (*STAGES, "tuning", "tasks.csv", "plan.json")
    held = {path.parent.name for name in names for path in Path(root).glob(f"*/{name}")}
    return sorted(name for name in held if HARDWARE.fullmatch(name))


def refuse_folder(path):
    """Raise RecordError if a folder lies where a file is to be written."""
    if os.path.isdir(path):
        raise RecordError(f"{path} is a folder in place of a file: remove it")


def write_if_changed(path, text, durable=True):
    """Write a file atomically unless it already has exactly this text; returns whether it was written.

    durable: as for `write_atomic`.

    Raises RecordError if a folder lies in its place, or a file in place of its folder.
    """
    path = Path(path)
    refuse_folder(path)
    if os.path.exists(path.parent) and not os.path.isdir(path.parent):
        raise RecordError(f"{path.parent} is a file in place of a folder: remove it")
    data = text.encode()
    with suppress(OSError):  # one that cannot be read is replaced
        if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
            return False
    write_atomic(path, text, durable)
    return True
