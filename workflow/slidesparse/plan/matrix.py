"""Checks and completes the configuration, and makes the matrix of points from it.

Planning runs in the workflow's main process, so nothing heavy is imported here.
"""

import copy
import os

from slidesparse.errors import ConfigurationError
from slidesparse.files import found, sha256_file
from slidesparse.machine import families, hardware, naming, vllm
from slidesparse.plan import backends, prompts
from slidesparse.plan import tasks as harness
from slidesparse.plan.backends import BACKENDS, PEERS, STAGES
from slidesparse.plan.cluster import further_options
from slidesparse.plan.dataset import Dataset
from slidesparse.plan.key import Key
from slidesparse.plan.schema import SCHEMA, SOURCES, checked, listed, nearest, shown
from slidesparse.plan.tasks import TaskKey


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
    _check_prompts(full, "")
    _check_prompts(_merged(full, full["cpu"]), "cpu.")
    _check_auto(full, "gpu", "")
    _check_auto(_merged(full, full["cpu"]), "cpu", "cpu.")
    _check_quality(full["quality"], "quality")
    _check_quality(_merged(full, full["cpu"])["quality"], "cpu.quality")
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
    --config, so change `cpu` there. Types and backends that the hardware cannot run are removed, and all M of engines
    if this machine's vLLM is none that was tested.

    The section `quality` becomes a stage as the others, whose M is the number of tokens that are scored. Its measuring
    parameters are the context and the text: by path and content, or by the name of a hub's, which has its commit.
    """
    plan = _laid_over(config, hardware_key)
    text, tokens = plan["quality"]["text"], plan["quality"]["tokens"]
    plan["quality"]["M"] = [tokens] if tokens else []
    how = {"text": text, "context": plan["quality"]["context"]}
    how |= {} if Dataset.of(text) else {"sha256": _content(text)}
    plan["measure"] = plan["measure"] | {"quality": how}
    if _no_engines(hardware_key):
        for stage in ("prefill", "decode", "quality"):
            plan[stage] = plan[stage] | {"M": []}
    plan["dtypes"] = [dtype for dtype in plan["dtypes"] if not families.supports(hardware_key, dtype)]
    plan["backends"] = {
        kind: [name for name in names if not _elsewhere(hardware_key, name)] for kind, names in plan["backends"].items()
    }
    return plan


def _laid_over(config, hardware_key):
    """A copy of the configuration for one hardware key, without the section `cpu`; on a CPU it is merged in."""
    common = {key: value for key, value in config.items() if key != "cpu"} | {"hardware": hardware_key}
    return _merged(common, {} if naming.parse(hardware_key).cc else config["cpu"])


def left_out(config, hardware_key):
    """[{"what", "reason"}] of configured types and backends that the hardware cannot run, of types that a backend
    cannot run, and of stages that cannot run here."""
    laid = _laid_over(config, hardware_key)
    reasons = {dtype: families.supports(hardware_key, dtype) for dtype in laid["dtypes"]}
    named = {name for names in laid["backends"].values() for name in names}
    for name, one in BACKENDS.items():
        if name not in named:
            continue
        reasons[name] = _elsewhere(hardware_key, name)
        for dtype in () if reasons[name] else laid["dtypes"]:
            if dtype not in one.dtypes and not reasons[dtype]:
                reasons[f"{name} {dtype}"] = f"{name} multiplies {' and '.join(one.dtypes)} only"
    if reason := _no_engines(hardware_key):
        reasons["prefill, decode and quality"] = reason
    return [{"what": what, "reason": reason} for what, reason in reasons.items() if reason]


def _elsewhere(hardware_key, backend):
    """Why a backend cannot run on a GPU; None if it can, or if the hardware is a CPU, which has backends of its own."""
    known, parts = BACKENDS[backend].capabilities, naming.parse(hardware_key)
    if not known or not parts.cc or parts.cc in known:
        return None
    runs = " and ".join(f"{cc / 10}" for cc in known)
    return f"{backend} has kernels for compute capability {runs} only, and {parts.gpu} has {parts.cc / 10}"


def _no_engines(hardware_key):
    """Why no engine can run on this machine, with the vLLM that is installed; None if it can, or is elsewhere."""
    installed = vllm.version()
    return vllm.untested(installed) if installed and naming.is_of(hardware_key, hardware.key()) else None


def shapes(config):
    """{model of a validated configuration's registry: the model that has its dimensions, itself or another}."""
    registry = config["registry"].items()
    return {name: entry["shape"] if isinstance(entry["shape"], str) else name for name, entry in registry}


def entries(config):
    """The registry of a validated configuration, with the dimensions written into each entry."""
    registry = config["registry"]
    return {name: registry[name] | {"shape": registry[other]["shape"]} for name, other in shapes(config).items()}


def positions(entry):
    """Tokens that a model of the registry can attend to."""
    return entry.get("positions", prompts.POSITIONS)


def matrix(config, hardware_key):
    """The Keys of all points of a validated configuration on one hardware key.

    They are in the order of running. First come all kernel points, under the model that has the dimensions. One engine
    after the other follows, with its prefill, decode and quality points. Dense backends have the sparsity `dense`.
    Those in dense_on_pruned also have each pattern. Generated models have no quality points: their weights are random.
    Prefill has each M at each prompt (`prompts.steps`).
    """
    plan, shape = planned(config, hardware_key), shapes(config)
    shaped = dict.fromkeys(shape[model] for model in plan["models"])
    runs = {stage: _runs(plan, stage) for stage in STAGES}
    return [
        Key(hardware_key, stage, model, dtype, backend, sparsity, M, prompt)
        for together, models in ((("kernel",), shaped), (("prefill", "decode", "quality"), plan["models"]))
        for model in models
        for dtype in plan["dtypes"]
        for backend, sparsity in dict.fromkeys(run for stage in together for run in runs[stage])
        for stage in together
        if (backend, sparsity) in runs[stage] and measures(backend, stage, dtype)
        if stage != "quality" or config["registry"][model]["source"] != "generated"
        for M, prompt in prompts.steps(plan[stage]["M"], plan[stage].get("prompt", [prompts.USUAL]))
    ]


def tasks(config, hardware_key):
    """The TaskKeys of a validated configuration on one hardware key: each task of each checkpoint that quality scores.

    They are in the order of running. Generated models have none.
    """
    plan = planned(config, hardware_key)
    named = [] if _no_engines(hardware_key) else harness.named(plan["quality"]["tasks"], "quality.tasks")
    return [
        TaskKey(hardware_key, model, dtype, backend, sparsity, task.name)
        for model in (plan["models"] if named else ())
        if config["registry"][model]["source"] != "generated"
        for dtype in plan["dtypes"]
        for backend, sparsity in _runs(plan, "quality")
        if measures(backend, "quality", dtype)
        for task in named
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

    points: {stage: {"model/dtype/backend/sparsity": [M, …]}}; the model has its prompt, as in a Configuration.
    variants: the same for the variants of stock vLLM.
    left_out: see `left_out`.
    shapes: {model of the registry: another model that has its shape}.
    tasks: {"model/dtype/backend/sparsity": {task of the harness: its content}}, see plan.tasks.
    parameters: {stage: measuring parameters}.
    acceptable: percent of bits per byte that a pattern may cost, for the report.
    share_host: stages that may share the host while measuring.
    idle_s: seconds after which an idle worker ends.
    """
    keys, laid = matrix(config, hardware_key), planned(config, hardware_key)
    return {
        "points": _by_stage(keys),
        "variants": _by_stage(variants(keys)),
        "left_out": left_out(config, hardware_key),
        "shapes": {name: other for name, other in shapes(config).items() if other != name},
        "tasks": _with_contents(tasks(config, hardware_key), laid["quality"]["tasks"]),
        "parameters": laid["measure"],
        "acceptable": laid["quality"]["acceptable"],
        "share_host": config["share_host"],
        "idle_s": config["resident"]["idle_s"],
    }


def _by_stage(keys):
    """{stage: {"model/dtype/backend/sparsity": [M, …]}} of Keys."""
    points = {}
    for key in keys:
        points.setdefault(key.stage, {}).setdefault(key.configuration.name, []).append(key.M)
    return points


def _with_contents(keys, entries):
    """{"model/dtype/backend/sparsity": {task: its content}} of TaskKeys."""
    contents = {task.name: task.content for task in harness.named(entries, "quality.tasks")} if keys else {}
    planned = {}
    for key in keys:
        planned.setdefault(key.configuration.name, {})[key.task] = contents[key.task]
    return planned


def measures(backend, stage, dtype):
    """Whether a stage measures a backend with this type of weights."""
    known = BACKENDS[backend]
    dtypes = set(known.dtypes) if stage == "kernel" else {*known.dtypes} & {*known.engine_dtypes}
    return stage in known.stages and dtype in dtypes


def configured(plan):
    """The dense and the sparse backends of a plan, or of a configuration, on dense and on pruned checkpoints."""
    return [*plan["backends"]["dense"], *plan["backends"]["sparse"]]


def compared(hardware_key, dtype, sparsity, names):
    """[(backend, sparsity)] of the kernel points that decide what `auto` runs on a checkpoint.

    names: the `configured` backends.

    They are the points of the first sparse backend, which also measure its peers in turn, and of other sparse ones and
    dense ones that are no peers, if they are configured. A dense checkpoint has those of one peer in place of sparse
    backends. On a CPU, which has no peers, the first dense backend always counts.
    """
    found = _compared(naming.parse(hardware_key).processor, sparsity, names)
    return [run for run in found if measures(run[0], "kernel", dtype)]


def _compared(processor, sparsity, names):
    measured = {name: one for name, one in BACKENDS.items() if one.processor == processor and "kernel" in one.stages}
    sparse, own = ([name for name, one in measured.items() if one.sparse == kind] for kind in (True, False))
    one_peer = [(name, "dense") for name in list(PEERS[processor])[:1]]
    windows = [(name, sparsity) for name in sparse if name in {sparse[0], *names}]
    others = [(name, "dense") for name in own if name not in PEERS[processor] and name in {own[0], *names}]
    return (one_peer if sparsity == "dense" else windows) + others


def auto_backends(root, hardware_key, model, dtype, sparsity, names):
    """{backend that `auto` may choose for a checkpoint: path of its tuning table, or None}.

    names: the `configured` backends. A peer without algorithms to search may be chosen only if it is among them.
    Otherwise nothing would show how it performs inside a model.
    """
    tables = {}
    for backend, weights in compared(hardware_key, dtype, sparsity, names):
        tables[backend] = f"{root}/{hardware_key}/tuning/{model}/{dtype}/{backend}/{weights}.json"
        rivals = backends.peers(root, hardware_key, model, dtype, backend)
        tables |= {name: table for name, table in rivals.items() if table or name in names}
    return {backend: table for backend, table in tables.items() if measures(backend, "prefill", dtype)}


def _runs(plan, stage):
    """[(backend, sparsity)] that a stage of the plan runs."""
    backends, patterns = plan["backends"], plan[stage]["sparsity"]
    runs = [(backend, "dense") for backend in backends["dense"]]
    runs += [(backend, pattern) for backend in backends["sparse"] for pattern in patterns]
    if stage in ("prefill", "decode"):
        runs += [(backend, pattern) for backend in backends["dense_on_pruned"] for pattern in patterns]
    return [run for run in runs if stage in BACKENDS[run[0]].stages]


def _content(path):
    """sha256 of the text at `path`; None if it cannot be read, which its points say when they are measured."""
    try:
        return sha256_file(found(path))
    except OSError:
        return None


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
    entry = entry | ({"path": found(path)} if entry["source"] == "local" else {})
    known = ("source", "shape", "positions", *SOURCES[entry["source"]])
    return {key: value for key, value in entry.items() if key in known}


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


def _check_prompts(config, prefix):
    """Raise ConfigurationError if a prompt does not divide an M above it, or is too long for a model."""
    Ms, lengths = config["prefill"]["M"], config["prefill"]["prompt"]
    for i, M in enumerate(Ms):
        for j, prompt in enumerate(lengths):
            if prompt < M and M % prompt:
                raise ConfigurationError(
                    f"{prefix}prefill.M[{i}] is {M}, but an M above {prefix}prefill.prompt[{j}] must be a multiple of"
                    f" it, which is {prompt}, or no step carries exactly M tokens"
                )
    for model in config["models"] if Ms else ():
        most = positions(config["registry"][model])
        for j, prompt in enumerate(lengths):
            if min(prompt, max(Ms)) >= most:
                raise ConfigurationError(
                    f"{prefix}prefill.prompt[{j}] is {prompt}, but {model} has {most} positions, and a prompt needs one"
                    f" more than its tokens: leave it out, or take a model with more (registry.{model}.positions)"
                )


def _check_quality(quality, path):
    Dataset.of(quality["text"], f"{path}.text")
    tokens, context = quality["tokens"], quality["context"]
    if tokens % context:
        raise ConfigurationError(
            f"{path}.tokens is {tokens}, but it must be a multiple of {path}.context, which is {context}"
        )
    harness.named(quality["tasks"], f"{path}.tasks")


def _check_auto(config, processor, prefix):
    """Raise ConfigurationError if `auto` is to run a checkpoint whose kernels the kernel stage does not measure."""
    measured = _runs(config, "kernel")
    runs = [(stage, *run) for stage in ("prefill", "decode") for run in _runs(config, stage)]
    for stage, pattern in [(stage, pattern) for stage, backend, pattern in runs if backend == "auto"]:
        for backend, sparsity in _compared(processor, pattern, configured(config)):
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
        if "gpu" in job and (key == "cpu" or not naming.parse(key).cc):
            path = key if key == "cpu" else f"hardware.{key}"
            raise ConfigurationError(f"cluster.{path}.gpu is {shown(job['gpu'])}, but this needs no GPU: leave it out")
