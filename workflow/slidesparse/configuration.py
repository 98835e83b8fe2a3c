"""What is to be measured: the configuration checked and completed, and the matrix of points that it stands for.

Planning runs inside the workflow's main process, so nothing heavy is imported here.
"""

import copy
import json
import math
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml
from jsonschema import Draft202012Validator, validators

from slidesparse import hardware, stock
from slidesparse.errors import ConfigurationError

SCHEMA = Path(__file__).parents[1] / "schemas" / "config.schema.yaml"

STAGES = ("kernel", "prefill", "decode")

PATTERNS = ("2_4", "2_6", "2_8", "2_10", "2_12", "2_14", "2_16", "2_inf")
"""The published patterns, for suggestions; any even L of at least 4 is allowed."""


class Backend(NamedTuple):
    """What planning knows of a GEMM backend; slidesparse/gemm runs it."""

    sparse: bool
    """Runs a stage's sparsity patterns instead of the dense checkpoint."""
    processor: str
    """gpu, cpu or any."""
    stages: tuple = STAGES
    engine_dtypes: tuple = ("INT8", "FP8")
    """Types that it runs in prefill and decode."""


BACKENDS = {
    "cublaslt": Backend(False, "gpu"),
    "cutlass": Backend(False, "gpu"),
    "torch": Backend(False, "gpu", engine_dtypes=("FP8",)),  # its INT8 product is cuBLASLt's, by default heuristics
    stock.BACKEND: Backend(False, "any", ("prefill", "decode")),
    "cusparselt": Backend(True, "gpu"),
    "auto": Backend(True, "any", ("prefill", "decode")),
    "onednn": Backend(False, "cpu"),
    "reference": Backend(True, "cpu"),
}

PEERS = {"gpu": {"cublaslt": True, "cutlass": False, "torch": False}, "cpu": {}}
"""Dense backends that every kernel point is measured in turn with: name -> has algorithms to search."""

SOURCES = {"hub": ("repository", "revision"), "local": ("path",), "generated": ("seed",)}
"""source of a model: the keys that it reads."""


def validated(config, schema_path=SCHEMA):
    """The configuration (a dict) with every default filled in; `config` itself is left as it is.

    Raises ConfigurationError with one sentence for the first problem: unknown keys first, missing ones last.
    """
    _check_names(config)
    schema = _schema(schema_path)
    errors = list(_Validator(schema).iter_errors(config))
    if errors:
        order = {"additionalProperties": 0, "required": 2}
        raise ConfigurationError(_sentence(min(errors, key=lambda error: order.get(error.validator, 1))))
    defaults = {key: entry["default"] for key, entry in schema["properties"].items()}
    full = _merged(defaults, config)
    full["registry"] = {name: _entry(name, entry) for name, entry in full["registry"].items()}
    _check_models(full, "models", full["models"])
    _check_models(full, "cpu.models", full["cpu"].get("models", []))
    _check_measure(full, "")
    _check_measure(_merged(full, full["cpu"]), "cpu.")
    _check_auto(full, "gpu", "")
    _check_auto(_merged(full, full["cpu"]), "cpu", "cpu.")
    _check_cluster(full["cluster"])
    return full


def hardware_keys(config):
    """Hardware keys that a validated configuration plans for; `auto` is this machine's own."""
    asked = config["hardware"]
    if asked == "auto":
        return [hardware.key()]
    return [asked] if isinstance(asked, str) else list(asked)


def planned(config, hardware_key):
    """The validated configuration as it holds on one hardware key.

    On a CPU the section `cpu` is laid over the rest (sections merge, lists replace), also over what was given with
    --configfile or --config: `cpu` is what to change there. Types that the hardware cannot run are gone from `dtypes`.
    """
    plan = _laid_over(config, hardware_key)
    plan["dtypes"] = [dtype for dtype in plan["dtypes"] if not hardware.supports(hardware_key, dtype)]
    return plan


def _laid_over(config, hardware_key):
    """A copy of the configuration for one hardware key: the section `cpu` merged in on a CPU, left out elsewhere."""
    common = {key: value for key, value in config.items() if key != "cpu"} | {"hardware": hardware_key}
    return _merged(common, {} if hardware.parse(hardware_key).cc else config["cpu"])


def left_out(config, hardware_key):
    """[{"dtype", "reason"}] of the configured types that the hardware cannot run."""
    dtypes = _laid_over(config, hardware_key)["dtypes"]
    reasons = {dtype: hardware.supports(hardware_key, dtype) for dtype in dtypes}
    return [{"dtype": dtype, "reason": reason} for dtype, reason in reasons.items() if reason]


def matrix(config, hardware_key):
    """[(stage, model, dtype, backend, sparsity, M)] of all points of a validated configuration on one hardware key.

    In the order of running: all kernel points, then one engine after the other, each with its prefill and decode
    points. Dense backends have the sparsity `dense`, and those of dense_on_pruned each pattern as well.
    """
    plan = planned(config, hardware_key)
    runs = {stage: _runs(plan, stage) for stage in STAGES}
    return [
        (stage, model, dtype, backend, sparsity, M)
        for together in (("kernel",), ("prefill", "decode"))
        for model in plan["models"]
        for dtype in plan["dtypes"]
        for backend, sparsity in dict.fromkeys(run for stage in together for run in runs[stage])
        for stage in together
        if (backend, sparsity) in runs[stage] and measures(backend, stage, dtype)
        for M in plan[stage]["M"]
    ]


def variants(rows, hardware_key):
    """Rows as those of a matrix, but of the points among which the best ones of stock vLLM in the matrix are chosen.

    In the order of running: one variant of a model and dtype after the other, each with its prefill and decode points.
    """
    processor, engines = hardware.parse(hardware_key).processor, {}
    for stage, model, dtype, backend, sparsity, M in rows:
        if backend == stock.BACKEND:
            for name in stock.candidates(stage, M, processor):
                row = (stage, model, dtype, name, sparsity, M)
                engines.setdefault((model, dtype, name), []).append(row)
    return [row for engine in engines.values() for row in engine]


def plan(config, hardware_key):
    """What a validated configuration asks of one hardware key, as it is stored for workers, gathering and reporting.

    {"points": {stage: {"model/dtype/backend/sparsity": [M, …]}}, "variants": the same of `variants`, "left_out": as
    `left_out`, "parameters": measuring parameters by stage, "share_host": stages that may share the host while
    measuring, "idle_s": seconds after which an idle worker ends}
    """
    rows = matrix(config, hardware_key)
    return {
        "points": _by_stage(rows),
        "variants": _by_stage(variants(rows, hardware_key)),
        "left_out": left_out(config, hardware_key),
        "parameters": planned(config, hardware_key)["measure"],
        "share_host": config["share_host"],
        "idle_s": config["resident"]["idle_s"],
    }


def _by_stage(rows):
    """{stage: {"model/dtype/backend/sparsity": [M, …]}} of rows of a matrix."""
    points = {}
    for stage, *names, M in rows:
        points.setdefault(stage, {}).setdefault("/".join(names), []).append(M)
    return points


def peers(root, hardware_key, model, dtype, backend):
    """{dense backend that a kernel point of `backend` is measured in turn with: path of its tuning table, or None}.

    root: where results lie, such as `results`.
    """
    known = PEERS[BACKENDS[backend].processor] if backend in BACKENDS else {}
    return {
        peer: f"{root}/{hardware_key}/tuning/{model}/{dtype}/{peer}/dense.json" if searched else None
        for peer, searched in known.items()
        if peer != backend
    }


def measures(backend, stage, dtype):
    """Whether a stage measures a backend with a type of weights."""
    known = BACKENDS[backend]
    return stage in known.stages and (stage == "kernel" or dtype in known.engine_dtypes)


def compared(hardware_key, sparsity):
    """[(backend, sparsity)] of the kernel points from which `auto` chooses its kernels for a pruned checkpoint.

    Those of the sparse backend, which its peers are measured in turn with, and of dense backends that are no peers.
    """
    return _compared(hardware.parse(hardware_key).processor, sparsity)


def _compared(processor, sparsity):
    measured = {name: one for name, one in BACKENDS.items() if one.processor == processor and "kernel" in one.stages}
    points = [(name, sparsity) for name, one in measured.items() if one.sparse]
    return points + [
        (name, "dense") for name, one in measured.items() if not one.sparse and name not in PEERS[processor]
    ]


def candidates(root, hardware_key, model, dtype, sparsity):
    """{backend that `auto` may choose for a pruned checkpoint: path of its tuning table, or None}, as `peers`."""
    found = {}
    for backend, weights in compared(hardware_key, sparsity):
        found[backend] = f"{root}/{hardware_key}/tuning/{model}/{dtype}/{backend}/{weights}.json"
        found |= peers(root, hardware_key, model, dtype, backend)
    return {backend: table for backend, table in found.items() if measures(backend, "prefill", dtype)}


def _runs(plan, stage):
    """[(backend, sparsity)] of a stage."""
    backends, patterns = plan["backends"], plan[stage]["sparsity"]
    runs = [(backend, "dense") for backend in backends["dense"]]
    runs += [(backend, pattern) for backend in backends["sparse"] for pattern in patterns]
    if stage != "kernel":
        runs += [(backend, pattern) for backend in backends["dense_on_pruned"] for pattern in patterns]
    return [run for run in runs if stage in BACKENDS[run[0]].stages]


def _merged(base, change):
    """A copy of `base` with `change` laid over it: sections merge, everything else is replaced."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return copy.deepcopy(change)
    both = {key: _merged(base[key], change[key]) if key in change else copy.deepcopy(base[key]) for key in base}
    return both | {key: copy.deepcopy(change[key]) for key in change if key not in base}


def _entry(name, entry):
    """A registry entry without the keys of other sources; raises ConfigurationError for an impossible shape."""
    shape = entry["shape"]
    for part, whole in (("num_attention_heads", "hidden_size"), ("num_key_value_heads", "num_attention_heads")):
        if shape[whole] % shape[part]:
            raise ConfigurationError(
                f"registry.{name}.shape.{part} is {shape[part]}, but it must divide {whole}, which is {shape[whole]}"
            )
    return {key: value for key, value in entry.items() if key in ("source", "shape", *SOURCES[entry["source"]])}


def _check_models(config, path, models):
    for i, model in enumerate(models):
        if model not in config["registry"]:
            raise ConfigurationError(
                f"{path}[{i}] is {_shown(model)}, but the registry has {_listed(config['registry'])}"
                f"{_nearest(model, config['registry'])}"
            )


def _check_measure(config, prefix):
    for name, of in (("kernel", "samples"), ("tune", "samples"), ("prefill", "repeats"), ("decode", "repeats")):
        least, most = (config["measure"][name][f"{bound}_{of}"] for bound in ("min", "max"))
        if least > most:
            raise ConfigurationError(
                f"{prefix}measure.{name}.min_{of} is {least}, but it must be at most max_{of}, which is {most}"
            )
    cap = config["measure"]["prefill"]["prompt_cap"]
    for i, M in enumerate(config["prefill"]["M"]):
        if cap < M and M % cap:
            raise ConfigurationError(
                f"{prefix}prefill.M[{i}] is {M}, but an M above measure.prefill.prompt_cap must be a multiple of it,"
                f" which is {cap}, or no step carries exactly M tokens"
            )


def _check_auto(config, processor, prefix):
    """Raise ConfigurationError if auto is to run a pattern whose kernels are not measured."""
    measured = _runs(config, "kernel")
    runs = [(stage, *run) for stage in ("prefill", "decode") for run in _runs(config, stage)]
    for stage, pattern in [(stage, pattern) for stage, backend, pattern in runs if backend == "auto"]:
        for backend, sparsity in _compared(processor, pattern):
            if (backend, sparsity) not in measured:
                raise ConfigurationError(
                    f"{prefix}{stage} runs auto/{pattern}, which takes the fastest kernel measured, but the kernel"
                    f" stage does not measure {backend}/{sparsity}: {prefix}backends.sparse must have {backend}, and"
                    f' {prefix}kernel.sparsity "{sparsity}"'
                )


def _check_cluster(cluster):
    for key, job in {"cpu": cluster["cpu"], **cluster["hardware"]}.items():
        if "gpu" in job and (key == "cpu" or not hardware.parse(key).cc):
            path = key if key == "cpu" else f"hardware.{key}"
            raise ConfigurationError(f"cluster.{path}.gpu is {_shown(job['gpu'])}, but this needs no GPU: leave it out")


# Schema errors, said in one sentence.

_Validator = validators.extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: _is_number(value) and math.isfinite(value),
        }
    ),
)
"""JSON schema takes 64.0 for an integer, and its Python form infinity for a number; here neither is one."""


@cache
def _schema(path):
    return yaml.safe_load(Path(path).read_text())


def _check_names(section, path=()):
    """Raise ConfigurationError for a key that YAML did not read as text, such as 28: or on:, or a control character.

    A line break ends a command, and `$` in a schema's pattern matches before it.
    """
    for key, value in section.items() if isinstance(section, dict) else enumerate(section):
        if isinstance(section, dict) and not isinstance(key, str):
            raise ConfigurationError(
                f"{_dotted((*path, str(key)))} is not a key, because YAML does not read it as text: quote it"
            )
        for text in (key, value):
            if isinstance(text, str) and not text.isprintable():
                raise ConfigurationError(
                    f"{_dotted((*path, key))!r} holds {text!r}, in which there is a line break or another character"
                    " that cannot be printed: remove it"
                )
        if isinstance(value, dict | list):
            _check_names(value, (*path, key))


def _sentence(error):
    """The key, its value, what is allowed, and what was probably meant."""
    path, value, schema = _dotted(error.absolute_path), error.instance, error.schema
    parent = next((part for part in reversed(error.absolute_path) if isinstance(part, str)), "")
    if error.validator == "additionalProperties":
        return _unknown_key(list(error.absolute_path), value, schema)
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in value)
        source = f", which source {value['source']} needs" if missing in SOURCES.get(value.get("source"), ()) else ""
        return f"{path}.{missing} is missing{source}: add it"
    if error.validator == "uniqueItems":
        again = next(i for i, item in enumerate(value) if item in value[:i])
        return (
            f"{path}[{again}] is {_shown(value[again])}, but {path}[{value.index(value[again])}] is too: name it once"
        )
    if error.validator == "enum":
        allowed = error.validator_value
        meant = _other_list(value, path) or _nearest(value, allowed)
        return f"{path} is {_shown(value)}, but allowed are {_listed(allowed)}{meant}"
    number = "the number " if _is_number(value) and not {"integer", "number"} & set(_kinds(schema)) else ""
    meant = _advice(value, schema, parent)
    return f"{path} is {number}{_shown(value)}, but must be {schema['title']}{meant and '; '}{meant}"


def _unknown_key(path, section, schema):
    known = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    key = next(key for key in section if key not in known and not any(re.search(p, key) for p in patterns))
    where = _dotted([*path, key])
    if path == ["registry"]:
        return f"{where} is not a usable name for a model: it may have letters, digits, '.', '_' and '-'"
    if patterns:
        return f"{where} is not a hardware key, such as RTX4090_cc89_py312_cu129_x86_64"
    owner = f"{_dotted(path)} has" if path else "the configuration has"
    value = _shown(section[key])
    return f"{where} (with the value {value}) is not a key: {owner} {_listed(known)}{_nearest(key, known)}"


def _other_list(value, path):
    """Where a known backend belongs that stands in the wrong list."""
    backend = BACKENDS.get(value) if isinstance(value, str) and "backends." in path else None
    if not backend:
        return ""
    processor = ("cpu" if path.startswith("cpu.") else "gpu") if backend.processor == "any" else backend.processor
    where = f"{'cpu.' if processor == 'cpu' else ''}backends.{'sparse' if backend.sparse else 'dense'}"
    if path.startswith(f"{where}_on_pruned"):
        return f"; {value} cannot run pruned checkpoints"
    kind, machine = "sparse" if backend.sparse else "dense", "CPUs" if processor == "cpu" else "NVIDIA GPUs"
    return f"; {value} is a {kind} backend on {machine} and belongs in {where}"


def _advice(value, schema, parent):
    """What to write instead of a value of the wrong type or form, or nothing."""
    kinds = _kinds(schema)
    text = str(value).strip()
    if parent == "hardware":
        return "auto stands alone, hardware: auto" if value == "auto" else _nearest(value, ["auto"]).lstrip("; ")
    if parent == "sparsity":
        if "array" not in kinds:
            return _pattern_advice(value)
        return f"write [{_unquoted(value)}]" if _is_number(value) else f'write ["{text}"]' if text and value else ""
    if "array" in kinds and (_is_number(value) or (isinstance(value, str) and value)):
        return f"write [{text}]"
    if isinstance(value, str) and {"integer", "number"} & set(kinds):
        if re.fullmatch(r"\d+(\.\d*)?", text):
            return f"write {text} without quotes, and in a file, because lists and sections after --config are text"
        if re.fullmatch(r"\d+(\.\d*)?[eE][-+]?\d+", text):
            return f"write {float(text)!r}, because YAML reads an exponent without a point as text"
    if isinstance(value, float) and "integer" in kinds and value.is_integer() and value > 0:
        return f"write {int(value)}"
    return "quote it" if "string" in kinds and _is_number(value) else ""


def _pattern_advice(value):
    """What to write instead of something that is no sparsity pattern."""
    if _is_number(value):
        return f"YAML reads 2_8 without quotes as the number 28 and 2:8 as 128, so quote it: {_unquoted(value)}"
    text = str(value).strip().replace(":", "_")
    match = re.fullmatch(r"(\d+)_(\d+|inf)", text)
    if text == "dense":
        return "leave it out, because the dense backends measure dense by themselves"
    if not match:
        nearest = get_close_matches(text, PATTERNS, 1, 0.5)
        return f'did you mean "{nearest[0]}"?' if nearest else 'for example "2_8"'
    Z, L = match.groups()
    if Z != "2":
        kept = _from_kept(Z, L)
        if kept:
            return f"{Z} of {L} weights kept is two zeros in every {L}, written {kept}"
        return 'the first number counts zeros and is always 2, as in "2_8"'
    if L != "inf" and int(L) < 4:
        return f'L is {L}, and the smallest pattern is "2_4"'
    if L != "inf" and int(L) % 2:
        return f'L is odd, and the nearest patterns are "2_{int(L) - 1}" and "2_{int(L) + 1}"'
    return f'write "2_{L.lstrip("0")}"'


def _unquoted(number):
    """The pattern that YAML read as a number: 28 for 2_8, 128 for 2:8 and 368 for 6:8 (both to the base 60)."""
    if not isinstance(number, int):
        return '"2_8"'
    text = str(number)
    for L in (text[1:] if text.startswith("2") else "", str(number - 120)):
        if L.isdecimal() and 4 <= int(L) < 60 and int(L) % 2 == 0:
            return f'"2_{L}"'
    return _from_kept(*map(str, divmod(number, 60))) or '"2_8"'


def _from_kept(kept, L):
    """Our name for the paper's (L-2):L, which counts what is kept; None if it is not one."""
    if L != "inf" and int(L) - int(kept) == 2 and int(L) >= 4 and int(L) % 2 == 0:
        return f'"2_{int(L)}"'
    return None


def _kinds(schema):
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else kinds


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _dotted(path):
    """kernel.M[2] for ("kernel", "M", 2)."""
    return (
        "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        or "the configuration"
    )


def _shown(value):
    """A value as it is written in JSON, cut at 60 characters."""
    if value is None:
        return "empty"
    if isinstance(value, list | dict) and not value:
        return "an empty list" if isinstance(value, list) else "an empty section"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(names):
    return ", ".join(map(str, names))


def _nearest(value, names):
    """`; did you mean X?` if a name is near, whatever its case."""
    lower = {str(name).lower(): name for name in names}
    near = get_close_matches(str(value).lower(), lower, 1, 0.5)
    return f"; did you mean {lower[near[0]]}?" if near else ""
