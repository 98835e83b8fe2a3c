"""Names in the files of others -> our names of types, backends and patterns, or a refusal that quotes them."""

import re
from datetime import UTC, datetime

from slidesparse.errors import RecordError
from slidesparse.machine.families import supports, wrong_capability
from slidesparse.machine.naming import gpu_model, gpu_token, parse
from slidesparse.plan import stock
from slidesparse.plan.backends import BACKENDS, DTYPES
from slidesparse.plan.key import from_kept, is_pattern
from slidesparse.report.sources.rows import LINEARS

COPY = re.compile(r"(?P<name>.+?)(?: \(\d+\)| - Copy| copy)(?: \d+)?\.csv", re.IGNORECASE)
"""The name of a file that a browser or a file manager copied."""

HEAD = {"GPU": "GPU", "dtype": "dtype", "Model": "model", "model": "model"}
"""Leading lines `# key: value` that say what a path says as well -> what they say."""

CUDA = {"torch": r"\+cu(\d+)\.?(\d*)", "CUDA driver": r"runtime:? (\d+)\.(\d+)"}
"""Words of a head -> where the CUDA stands behind them."""

YEARS = range(2000, 2100)
"""Years in which something may have been measured."""


def short_dtype(name):
    """Our name of a type: FP8 for FP8E4M3."""
    return "FP8" if name == "FP8E4M3" else name


def pattern(name):
    """Our name of a pattern: dense, 2_L, or 2_L for the paper's (L-2)_L, which counts the weights that are kept.

    Raises RecordError for any other text.
    """
    kept = re.fullmatch(r"([0-9]{1,4})_([0-9]{1,4})", name, re.ASCII)
    ours = name if is_pattern(name) else kept and from_kept(*kept.groups())
    if not ours:
        raise RecordError(
            f"{name!r:.80} is no pattern: there are dense, 2_L with an even L from 4 on, and L-2_L for the weights kept"
        )
    return ours


def dtype(name):
    """Our name of a type of weights. Raises RecordError for one that this report does not know."""
    if short_dtype(name) not in DTYPES:
        raise RecordError(f"the type {name!r:.80} is none of {', '.join(DTYPES)}")
    return short_dtype(name)


def backend(name):
    """Our name of a backend, which is written in small letters. Raises RecordError for an unknown one."""
    if name.lower() not in BACKENDS:
        raise RecordError(f"the backend {name!r:.80} is none of {', '.join(BACKENDS)}")
    return name.lower()


def configured(dtype_name, backend_name, pattern_name):
    """(type, backend, pattern) in our names. Raises RecordError for an unknown name and a missing pattern."""
    names = dtype(dtype_name), backend(backend_name), pattern(pattern_name)
    if BACKENDS[names[1]].sparse and not BACKENDS[names[1]].also_dense and names[2] == "dense":
        raise RecordError(f"the backend {backend_name!r:.80} is sparse, and no pattern is named")
    if names[1] == stock.BACKEND and names[2] != "dense":
        raise RecordError(
            f"the backend {backend_name!r:.80} is stock vLLM, which runs dense weights, but not {names[2]}"
        )
    return names


def linears(shapes):
    """(N, K or K') -> name of the linear, whatever the order of the shapes; numbered if they are not the usual four.

    o and down have N in common, and down has the larger K. gate_up has more channels than qkv.
    """
    channels = [N for N, _ in shapes]
    shared = sorted(shape for shape in shapes if channels.count(shape[0]) == 2)
    others = sorted(shape for shape in shapes if shape not in shared)
    if len(shared) != 2 or len(others) != 2:
        return {shape: f"linear {number}" for number, shape in enumerate(sorted(shapes), start=1)}
    return dict(zip((others[0], shared[0], others[1], shared[1]), LINEARS, strict=True))


def refuse_copy(path):
    """Raise RecordError if a CSV has the name that a copy is given."""
    match = COPY.fullmatch(path.name)
    if match:
        original = path.with_name(f"{match['name']}.csv")
        beside = f"of {original.name}, which lies beside it" if original.is_file() else "of a file that is not there"
        raise RecordError(f"{path} has the name of a copy {beside}: nothing of it is used, delete or rename it")


def refuse_other_head(path, header, hardware, dtypes=(), models=()):
    """Raise RecordError if leading lines name another GPU, CUDA, type or model than the path or the rows do.

    header: {key: value} of leading lines. dtypes, models: what the path or the rows name; empty is not compared.
    """
    gpu = hardware.partition("_cc")[0]
    placed = {"GPU": () if gpu.startswith("cpu-") else (gpu,), "dtype": tuple(dtypes), "model": tuple(models)}
    for word, kind in HEAD.items():
        said, known = header.get(word, ""), placed[kind]
        if not said or not known:
            continue
        bare = re.sub(r"-(INT8|FP8|FP8E4M3|BF16|FP16)$", "", said) if kind == "model" else said
        means = {"GPU": gpu_token(said), "dtype": short_dtype(said.partition(" ")[0]), "model": bare}[kind]
        same = kind == "GPU" and gpu_model(said) == gpu_model(gpu)  # as of H100PCIe and NVIDIA H100 80GB HBM3
        if not {said, means} & set(known) and not same:
            place = ", ".join(sorted(known))
            raise RecordError(
                f"{path} does not belong there: its header says {word} {said:.80}, its place says {place:.80}"
            )
    cuda, said = f"cu{parse(hardware).cuda}", cuda_of(header)
    if said and cuda not in said.values() and cuda != "cu0":
        words = " and ".join(f"{word} {header[word]:.80}" for word in said)
        raise RecordError(f"{path} does not belong there: its header says {words}, its place says {cuda}")


def cuda_of(header):
    """Word of a head -> the CUDA that it names, such as cu129: of the torch that ran, and of the runtime."""
    found = {word: re.search(ending, header.get(word, "")) for word, ending in CUDA.items()}
    return {word: f"cu{''.join(match.groups())}" for word, match in found.items() if match}


def refuse_unable(hardware, dtypes):
    """Raise RecordError if a GPU has not the compute capability of its key, or cannot run one of these types."""
    wrong = wrong_capability(hardware) or next(filter(None, (supports(hardware, each) for each in dtypes)), None)
    if wrong:
        raise RecordError(wrong)


def refuse_unprintable(path, root):
    """Raise RecordError if the name of a file or of its folders below the root cannot be printed."""
    if not str(path.relative_to(root)).isprintable():
        raise RecordError(f"{path} is not read: its name has bytes or characters that cannot be printed: rename it")


def printable(sentence):
    """A sentence in which what cannot be printed is written as a backslash and its number."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in sentence)


def _time(text):
    """The datetime of an ISO time, of one with `UTC` behind it, or of ctime(3): Sun Nov 29 16:08:10 2026."""
    if isinstance(text, str) and re.match("[A-Z][a-z]{2} [A-Z][a-z]{2} ", text):
        zone = UTC if " UTC" in text else None
        return datetime.strptime(" ".join(text.replace("UTC", "").split()), "%a %b %d %H:%M:%S %Y").replace(tzinfo=zone)
    return datetime.fromisoformat(re.sub(r" ?UTC$", "+00:00", text))


def instant(text):
    """An ISO time as text that sorts by time: of a known offset in UTC with a Z; None if it is no time that can be."""
    try:
        time = _time(text)
        time = time.astimezone(UTC) if time.tzinfo else time
    except (TypeError, ValueError, OverflowError):
        return None
    return time.isoformat().replace("+00:00", "Z") if time.year in YEARS else None
