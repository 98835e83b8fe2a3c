"""What a point was asked for: a point whose request changed is measured again, and no other.

A point is measured again only for a reason that changes its value. Those reasons are its `request`: the protocol's
version, the parameters, the checkpoint's bytes (prefill, decode), the shapes (kernel) and the tuning table.
"""

from functools import cache
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import digest, is_plain, read_json, sha256_file
from slidesparse.machine import hardware
from slidesparse.plan import backends, stock
from slidesparse.plan.key import Key, root_of
from slidesparse.points.plan import Plan, read_plan

PROTOCOL = {"tune": 3, "kernel": 5, "prefill": 9, "decode": 7}
"""Version of how each stage measures. Raised when timing, gemm, kernels, engine or csrc change what a figure means;
a test compares the hash of those files (tests/points/protocol.json)."""


def variant_paths(path):
    """{variant: path of its point} of those of which the one at `path` is the best, if it is one of stock vLLM."""
    key, root = Key.of(path), root_of(path)
    return {name: Path(key._replace(backend=name).path(root)) for name in key.variants}


def process_asked(processor, stage, sparsity):
    """What a point asks of the process that measures it, or None: dense kernels on a GPU, one without sparse products.

    `handlers` sees to it. It is part of the request and no version of the protocol, for sparse points are what they
    were, and only figures of one protocol are divided by one another.
    """
    dense_kernel = (processor, stage, sparsity) == ("gpu", "kernel", "dense")
    return "no sparse products" if dense_kernel else None


def rerun_when(hardware_key, stage, sparsity):
    """What measures a stage's points again when it changes: its protocol's version, and what they ask of a process."""
    asks = process_asked(hardware.parse(hardware_key).processor, stage, sparsity)
    return [PROTOCOL[stage], asks] if asks else PROTOCOL[stage]


def request(key, parameters, basis, tuning=None, peers=None):
    """The request of the point of a Key, and its digest; of stock vLLM's point also the digests of its variants'.

    basis: path of the model's shape (kernel) or of the checkpoint's manifest (prefill, decode). tuning: path of the
    tuning table; stock vLLM has none. parameters: the stage's measuring parameters. peers: {dense backend measured
    beside a kernel point: path of its tuning table, or None}.
    """
    theirs = {name: request(key._replace(backend=name), parameters, basis)["digest"] for name in key.variants}
    best = {"candidates": theirs} if theirs else {}
    process = process_asked(key.processor, key.stage, key.sparsity)
    apart = {"process": process} if process else {}
    asked = {
        "key": key._asdict(),
        "protocol": PROTOCOL[key.stage],
        "parameters": backends.deciding(key.stage, parameters),
        "basis": digest(read_json(basis, RecordError)),
        "tuning": sha256_file(tuning) if tuning else None,
        **best,
        **apart,
    }
    if peers:
        asked["peers"] = {name: path and sha256_file(path) for name, path in peers.items()}
    return {
        "digest": digest(asked),
        "protocol": asked["protocol"],
        "parameters": asked["parameters"],
        "checkpoint": asked["basis"] if key.stage != "kernel" else None,
        "tuning": asked["tuning"],
        "peers": asked.get("peers", {}),
        **best,
        **apart,
    }


def expected_digests(point_paths, parameters):
    """M -> digest of the request that the point at each path must answer now.

    parameters: measuring parameters of its stage. The other reasons to measure again lie in the tree of the points:
    shape or checkpoint manifest, and tuning table, which stock vLLM does without, and which is another model's if
    plan.json says so; where one of them is gone the digest is None, which is not checked.
    """
    digests, plan_of = {}, cache(read_plan)
    for path in point_paths:
        key, root = Key.of(path), root_of(path)
        plan = plan_of(root, key.hardware) or Plan()
        shape = plan.shapes.get(key.model, key.model)
        if not is_plain(shape):
            raise RecordError(f"the plan of {key.hardware} names the model {shape!r:.80}, which cannot be")
        basis, tuning = key.basis(root), None if key.backend == stock.BACKEND else key.tuning(root, shape)
        where = (root, key.hardware, shape, key.dtype, key.backend)
        peers = backends.peers(*where) if key.stage == "kernel" else {}
        known = all(Path(file).is_file() for file in filter(None, (basis, tuning, *peers.values())))
        digests[key.M] = request(key, parameters, basis, tuning, peers)["digest"] if known else None
    return digests
