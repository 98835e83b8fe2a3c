"""Checks and completes the configuration, and makes the matrix of points from it.

Planning runs in the workflow's main process, so nothing heavy is imported here.
"""

import copy
import os

from slidesparse.errors import ConfigurationError
from slidesparse.machine import hardware, vllm
from slidesparse.plan import backends
from slidesparse.plan.backends import BACKENDS, PEERS, STAGES
from slidesparse.plan.cluster import further_options
from slidesparse.plan.key import Key
from slidesparse.plan.schema import SCHEMA, SOURCES, checked, listed, nearest, shown


def validated(config, schema_path=SCHEMA):
    """The configuration (a dict) with every default filled in; `config` itself is not changed.

    Raises ConfigurationError with one sentence on the first problem. Unknown keys come first, missing ones last.
    """
    schema = checked(config, schema_path)
    defaults = {key: entry["default"] for key, entry in schema["properties"].items()}
    full = _merged(defaults, config)
    full["registry"] = {name: _entry(name, entry, full["registry"]) for name, entry in full["registry"].items()}
    _check_models(full, "models", full["models"])
    _check_models(full, "cpu.models", full["cpu"].get("models", []))
    _check_measure(full, "")
    _check_measure(_merged(full, full["cpu"]), "cpu.")
    _check_auto(full, "gpu", "")
    _check_auto(_merged(full, full["cpu"]), "cpu", "cpu.")
    _check_cluster(full["cluster"])
    return full


def hardware_keys(config):
    """Hardware keys that a validated configuration plans for; `auto` is this machine's own, with the suffix."""
    asked = config["hardware"]
    if asked == "auto":
        suffix = config["hardware_suffix"]
        return [f"{hardware.key()}_{suffix}" if suffix else hardware.key()]
    return [asked] if isinstance(asked, str) else list(asked)


def planned(config, hardware_key):
    """The validated configuration for one hardware key.

    On a CPU the section `cpu` is laid over the rest: sections merge, lists replace. It also wins over --configfile and
    --config, so change `cpu` there. Types that the hardware cannot run are removed from `dtypes`, and all M of engines
    if this machine's vLLM is none that was tested.
    """
    plan = _laid_over(config, hardware_key)
    if _no_engines(hardware_key):
        for stage in ("prefill", "decode"):
            plan[stage] = plan[stage] | {"M": []}
    plan["dtypes"] = [dtype for dtype in plan["dtypes"] if not hardware.supports(hardware_key, dtype)]
    return plan


def _laid_over(config, hardware_key):
    """A copy of the configuration for one hardware key, without the section `cpu`; on a CPU it is merged in."""
    common = {key: value for key, value in config.items() if key != "cpu"} | {"hardware": hardware_key}
    return _merged(common, {} if hardware.parse(hardware_key).cc else config["cpu"])


def left_out(config, hardware_key):
    """[{"what", "reason"}] of the configured types that the hardware cannot run, and of stages that cannot run here."""
    dtypes = _laid_over(config, hardware_key)["dtypes"]
    reasons = {dtype: hardware.supports(hardware_key, dtype) for dtype in dtypes}
    if reason := _no_engines(hardware_key):
        reasons["prefill and decode"] = reason
    return [{"what": what, "reason": reason} for what, reason in reasons.items() if reason]


def _no_engines(hardware_key):
    """Why no engine can run on this machine, with the vLLM that is installed; None if it can, or is elsewhere."""
    installed = vllm.version()
    return vllm.untested(installed) if installed and hardware.is_of(hardware_key, hardware.key()) else None


def shapes(config):
    """{model of a validated configuration's registry: the model that has its dimensions, itself or another}."""
    registry = config["registry"].items()
    return {name: entry["shape"] if isinstance(entry["shape"], str) else name for name, entry in registry}


def entries(config):
    """The registry of a validated configuration, with the dimensions written into each entry."""
    registry = config["registry"]
    return {name: registry[name] | {"shape": registry[other]["shape"]} for name, other in shapes(config).items()}


def matrix(config, hardware_key):
    """The Keys of all points of a validated configuration on one hardware key.

    They are in the order of running. First come all kernel points, under the model that has the dimensions. One engine
    after the other follows, with its prefill and decode points. Dense backends have the sparsity `dense`. Those in
    dense_on_pruned also have each pattern.
    """
    plan, shape = planned(config, hardware_key), shapes(config)
    shaped = dict.fromkeys(shape[model] for model in plan["models"])
    runs = {stage: _runs(plan, stage) for stage in STAGES}
    return [
        Key(hardware_key, stage, model, dtype, backend, sparsity, M)
        for together, models in ((("kernel",), shaped), (("prefill", "decode"), plan["models"]))
        for model in models
        for dtype in plan["dtypes"]
        for backend, sparsity in dict.fromkeys(run for stage in together for run in runs[stage])
        for stage in together
        if (backend, sparsity) in runs[stage] and measures(backend, stage, dtype)
        for M in plan[stage]["M"]
    ]


def variants(keys):
    """The Keys of the variants of all points of stock vLLM in `keys`, which are of one hardware key.

    They are in the order of running: one variant of a model and dtype after the other, with its prefill and decode
    points.
    """
    engines = {}
    for key in keys:
        for name in key.variants:
            engines.setdefault((key.model, key.dtype, name), []).append(key._replace(backend=name))
    return [key for engine in engines.values() for key in engine]


def plan(config, hardware_key):
    """The content of plan.json for one hardware key; workers, gathering and reporting read it.

    points: {stage: {"model/dtype/backend/sparsity": [M, …]}}.
    variants: the same for the variants of stock vLLM.
    left_out: see `left_out`.
    shapes: {model of the registry: another model that has its shape}.
    parameters: {stage: measuring parameters}.
    share_host: stages that may share the host while measuring.
    idle_s: seconds after which an idle worker ends.
    """
    keys = matrix(config, hardware_key)
    return {
        "points": _by_stage(keys),
        "variants": _by_stage(variants(keys)),
        "left_out": left_out(config, hardware_key),
        "shapes": {name: other for name, other in shapes(config).items() if other != name},
        "parameters": planned(config, hardware_key)["measure"],
        "share_host": config["share_host"],
        "idle_s": config["resident"]["idle_s"],
    }


def _by_stage(keys):
    """{stage: {"model/dtype/backend/sparsity": [M, …]}} of Keys."""
    points = {}
    for key in keys:
        points.setdefault(key.stage, {}).setdefault(key.configuration.name, []).append(key.M)
    return points


def measures(backend, stage, dtype):
    """Whether a stage measures a backend with this type of weights."""
    known = BACKENDS[backend]
    return stage in known.stages and (stage == "kernel" or dtype in known.engine_dtypes)


def compared(hardware_key, sparsity):
    """[(backend, sparsity)] of the kernel points that decide what `auto` runs on a checkpoint.

    They are the points of the sparse backend, which also measure its peers in turn, and of dense backends that are no
    peers. A dense checkpoint has those of one peer in place of the sparse backend.
    """
    return _compared(hardware.parse(hardware_key).processor, sparsity)


def _compared(processor, sparsity):
    measured = {name: one for name, one in BACKENDS.items() if one.processor == processor and "kernel" in one.stages}
    sparse = [(name, sparsity) for name, one in measured.items() if one.sparse]
    one_peer = [(name, "dense") for name in list(PEERS[processor])[:1]]
    others = [(name, "dense") for name, one in measured.items() if not one.sparse and name not in PEERS[processor]]
    return (one_peer if sparsity == "dense" else sparse) + others


def auto_backends(root, hardware_key, model, dtype, sparsity, dense):
    """{backend that `auto` may choose for a checkpoint: path of its tuning table, or None}.

    dense: the configured dense backends. A peer without algorithms to search may be chosen only if it is among them.
    Otherwise nothing would show how it performs inside a model.
    """
    tables = {}
    for backend, weights in compared(hardware_key, sparsity):
        tables[backend] = f"{root}/{hardware_key}/tuning/{model}/{dtype}/{backend}/{weights}.json"
        rivals = backends.peers(root, hardware_key, model, dtype, backend)
        tables |= {name: table for name, table in rivals.items() if table or name in dense}
    return {backend: table for backend, table in tables.items() if measures(backend, "prefill", dtype)}


def _runs(plan, stage):
    """[(backend, sparsity)] that a stage of the plan runs."""
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


def _entry(name, entry, registry):
    """A registry entry without keys of other sources. Raises ConfigurationError for an impossible shape."""
    shape = entry["shape"]
    if isinstance(shape, str):
        _check_other(f"registry.{name}.shape", name, shape, registry)
    else:
        _check_dimensions(name, shape)
    path = entry.get("path", "")
    if path.startswith("~") and os.path.expanduser(path) == path:
        raise ConfigurationError(f"registry.{name}.path is {shown(path)}, but there is no such user here: write it out")
    return {key: value for key, value in entry.items() if key in ("source", "shape", *SOURCES[entry["source"]])}


def _check_other(path, name, other, registry):
    """Raise ConfigurationError unless `other` is a model other than `name` that has dimensions of its own."""
    _check_model(path, other, registry)
    theirs = registry[other]["shape"]
    if other == name:
        raise ConfigurationError(
            f"{path} is {shown(other)}, but must be its dimensions, or the name of another model that has them"
        )
    if isinstance(theirs, str):
        raise ConfigurationError(
            f"{path} is {shown(other)}, but must be the name of a model with dimensions of its own, and {other} has the"
            f" shape of {shown(theirs)}"
        )


def _check_dimensions(name, shape):
    for part, whole in (("num_attention_heads", "hidden_size"), ("num_key_value_heads", "num_attention_heads")):
        if shape[whole] % shape[part]:
            raise ConfigurationError(
                f"registry.{name}.shape.{part} is {shape[part]}, but it must divide {whole}, which is {shape[whole]}"
            )


def _check_models(config, path, models):
    for i, model in enumerate(models):
        _check_model(f"{path}[{i}]", model, config["registry"])


def _check_model(path, model, registry):
    if model not in registry:
        raise ConfigurationError(
            f"{path} is {shown(model)}, but the registry has {listed(registry)}{nearest(model, registry)}"
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
    """Raise ConfigurationError if `auto` is to run a checkpoint whose kernels the kernel stage does not measure."""
    measured = _runs(config, "kernel")
    runs = [(stage, *run) for stage in ("prefill", "decode") for run in _runs(config, stage)]
    for stage, pattern in [(stage, pattern) for stage, backend, pattern in runs if backend == "auto"]:
        for backend, sparsity in _compared(processor, pattern):
            if (backend, sparsity) not in measured:
                wanted = f'{prefix}backends.sparse must have {backend}, and {prefix}kernel.sparsity "{sparsity}"'
                if sparsity == "dense":
                    wanted = f"{prefix}backends.dense must have {backend}"
                raise ConfigurationError(
                    f"{prefix}{stage} runs auto/{pattern}, which takes the fastest kernel measured, but the kernel"
                    f" stage does not measure {backend}/{sparsity}: {wanted}"
                )


def _check_cluster(cluster):
    jobs = {"cpu": cluster["cpu"], "gpu": cluster["gpu"]}
    for key, job in (jobs | {f"hardware.{key}": job for key, job in cluster["hardware"].items()}).items():
        further_options(job.get("options", []), f"cluster.{key}.options")
    for key, job in {"cpu": cluster["cpu"], **cluster["hardware"]}.items():
        if "gpu" in job and (key == "cpu" or not hardware.parse(key).cc):
            path = key if key == "cpu" else f"hardware.{key}"
            raise ConfigurationError(f"cluster.{path}.gpu is {shown(job['gpu'])}, but this needs no GPU: leave it out")
