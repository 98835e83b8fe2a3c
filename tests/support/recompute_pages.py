"""Recompute from the kept points, without report/ and benchmarks/figures.py, what README.md and docs/results.md say."""

import json
import re
import tarfile
from statistics import median

from kept import DENSE, H100, H200, engine, points, rounded
from places import ROOT

BLOCK = re.compile(r"<!-- figures: ([a-z0-9-]+) -->\n(.*?)<!-- end -->", re.DOTALL)
PREFILL, DECODE = (1024, 2048, 4096, 8192, 16384, 32768), (64, 128, 256, 512)
KERNEL = (64, 256, 1024, 2048, 8192, 16384)
TYPES, PATTERNS = ("INT8", "FP8"), ("2_4", "2_6", "2_8")
CLAIMS = re.compile(r"\b(always|never|all|none|no|only|every|each|fastest|at most|slower|faster|pays|best)\b")
"""Words that claim more than a number. Each sentence with one of them must be one of SENTENCES."""


def ours(key, stage, dtype, M, by="step"):
    return min((engine(key, stage, dtype, b, "dense", M, by) for b in DENSE), key=lambda each: each.value)


def gain(key, stage, dtype, pattern, M, by="step"):
    """Of a sparse engine over our fastest dense one."""
    return ours(key, stage, dtype, M, by).over(engine(key, stage, dtype, "cusparselt", pattern, M, by))


def stock(key, stage, dtype, pattern, M, by="step"):
    """Of our fastest dense engine, or a sparse one, over stock vLLM."""
    own = (
        ours(key, stage, dtype, M, by)
        if pattern == "dense"
        else engine(key, stage, dtype, "cusparselt", pattern, M, by)
    )
    return engine(key, stage, dtype, "vllm", "dense", M, by).over(own)


def two(ratio):
    return rounded(ratio.value if hasattr(ratio, "value") else ratio, 2)


def ends(ratios):
    values = [each.value for each in ratios]
    return [two(each) for each in sorted({min(values), max(values)})]


def us(product):
    return 1e6 * product["cold"]["median_s"]


def product(dtype, M, pattern="2_4", output=None, alone=None):
    """A layer's dense products over its sparse ones: of the fastest rival of each linear, in turn or alone."""
    theirs = mine = 0
    for i, gemm in enumerate(points(H200)["kernel", dtype, "cusparselt", pattern, M]["results"]["gemms"]):
        rivals = {f"{p['backend']} {p['output']}": us(p) for p in gemm["peers"] if output in (None, p["output"])}
        if alone is not None:
            rivals = {b: rivals.get(f"{b} BF16") for b in DENSE}
            if alone:
                rivals = {b: us(points(H200)["kernel", dtype, b, "dense", M]["results"]["gemms"][i]) for b in DENSE}
        theirs, mine = theirs + min(filter(None, rivals.values())), mine + us(gemm)
    return theirs / mine


def turn_cost(M):
    """Percent that dense FP8 products take longer in turn than alone, at the median of all linears and patterns."""
    ratios = []
    for (stage, dtype, backend, _, m), point in points(H200).items():
        if (stage, dtype, backend, m) == ("kernel", "FP8", "cusparselt", M):
            for i, gemm in enumerate(point["results"]["gemms"]):
                peers = {p["backend"]: us(p) for p in gemm["peers"] if p["output"] == "BF16" and p["backend"] in DENSE}
                alone = {b: us(points(H200)["kernel", dtype, b, "dense", M]["results"]["gemms"][i]) for b in peers}
                ratios += [peers[b] / alone[b] for b in peers]
    return 100 * (median(ratios) - 1)


def again():
    """Largest differences, in percent, of the later run of stock vLLM."""
    wall, gpu = [], []
    with tarfile.open(ROOT / "resources" / "measured" / H200 / "stock_again.tar.xz") as archive:
        for member in [each for each in archive if re.search(r"/M\d+\.json$", each.name)]:
            point = json.load(archive.extractfile(member))
            stage, *_, M = where = tuple(point["key"][n] for n in ("stage", "dtype", "backend", "sparsity", "M"))
            new, old = point["results"], points(H200)[where]["results"]
            if stage == "prefill" and M >= 1024:
                wall.append(abs(new["step_s"]["median"] / old["step_s"]["median"] - 1))
            elif stage == "decode":
                gpu.append(abs(new["gpu_step_ms"] / old["gpu_step_ms"] - 1))
    return [str(len(wall)), rounded(100 * max(wall), 1), str(len(gpu)), rounded(100 * max(gpu), 1)]


def grid(of, Ms, *lines):
    """Cells of a table: for each line both types, for each all M. A ratio that the host bounds has a mark."""
    return [two(each) + " †" * bool(each.out) for line in lines for d in TYPES for each in (of(line, d, M) for M in Ms)]


def expected():
    """Block -> its figures, in order."""
    prefill = {(d, p): [gain(H200, "prefill", d, p, M) for M in PREFILL] for d in TYPES for p in PATTERNS}
    later = {p: [each for d in TYPES for each in prefill[d, p][1:]] for p in PATTERNS}
    gains = [f"{mark}" for mark in grid(lambda p, d, M: gain(H200, "prefill", d, p, M), PREFILL, *PATTERNS)]
    unmarked = [[two(stock(H200, "prefill", d, p, M)) for d in TYPES for M in PREFILL] for p in ("dense", "2_4")]
    rows = [(of, p, by) for of, p in ((stock, "dense"), (gain, "2_4"), (stock, "2_4")) for by in ("gpu", "step")]
    decode = [two(of(H200, "decode", d, p, M, by)) for of, p, by in rows for d in TYPES for M in DECODE]
    at_512 = [(of, p, d) for of, p in ((stock, "dense"), (gain, "2_4")) for d in TYPES]
    spans = [ends([gain(H200, "decode", d, "2_4", M, "gpu") for M in DECODE]) for d in TYPES]
    clocks = [two(gain(H200, "decode", d, "2_4", M)) for d in TYPES for M in DECODE]
    most = [two(max(e.value for d in TYPES for e in prefill[d, p])) for p in PATTERNS[1:]]
    first = ends([prefill[d, "2_4"][0] for d in TYPES])
    large = [M for M in KERNEL if M >= 1024]
    cost = [rounded(turn_cost(M), 0) for M in large]
    h100 = [(stock, "dense"), *((gain, p) for p in PATTERNS)]
    spread = [e for of, p in h100 for d in TYPES for e in ends([of(H100, "prefill", d, p, M) for M in PREFILL])]
    best = max(gain(H100, "prefill", "INT8", "2_6", M).value for M in PREFILL)
    assert min(e.value for e in later["2_4"]) > 1 > max(e.value for e in later["2_8"]), "2:4 pays, 2:8 is slower"
    assert all(gain(H200, "decode", d, "2_4", M).out for d in TYPES for M in DECODE), "the host has its share"
    return {
        "answer": [
            *(e for p in PATTERNS for e in ends(later[p])),
            *gains,
            *(two(gain(key, "prefill", d, "2_4", 512)) for key in (H200, H100) for d in TYPES),
        ],
        "stock-again": again(),
        "kernel": [two(product(d, M, p)) for p in PATTERNS for d in TYPES for M in KERNEL],
        "kernel-rivals": [two(product("INT8", M, output="BF16")) for M in KERNEL],
        "turns": [
            min(cost, key=int),
            max(cost, key=int),
            *(two(product("FP8", M, alone=alone)) for alone in (True, False) for M in large),
        ],
        "prefill": [*unmarked[0], *gains, *unmarked[1]],
        "prefill-512": [
            two(of(key, "prefill", d, p, 512, by))
            for of, p, d in at_512
            for key in (H200, H100)
            for by in ("step", "gpu")
        ],
        "decode": decode,
        "follows": [
            *(e for d in TYPES for e in ends(prefill[d, "2_4"][1:])),
            *first,
            *spans[0],
            *spans[1],
            *clocks,
            *most,
        ],
        "h100": [*spread, two(best)],
    }


FIGURE = re.compile(r"(?<!b)\d+\.\d+(?: †)?")
WHOLE = {
    "stock-again": re.compile(r"\d+\.\d+|(?<=: )\d+|(?<=time of )\d+"),
    "turns": re.compile(r"\d+\.\d+|(?<=took )\d+|(?<=to )\d+(?= %)"),
}
SENTENCES = {
    "answer": "2:4 makes prefill # times as fast|2:8 is slower|our fastest dense engine|Above 1 sparse is faster"
    "|prompts of at most 1,024 tokens",
    "stock-again": "measured once more after everything else",
    "kernel-rivals": "In FP8 the fastest rivals are products of cuBLASLt and torch",
    "turns": "Over the faster of cuBLASLt and CUTLASS alone",
    "follows": "2:4 on cuSPARSELt pays from 2,048|whether 2:4 is faster|at all four M|2:6 has at most #|2:8 at most #",
}
"""Block -> its phrases with such words. What they claim is asserted above, or follows from the figures beside them."""


def mistakes(text):
    """Blocks of a page whose figures, or whose claims, are not those that the kept points give."""
    wrong, right = [], expected()
    for name, block in BLOCK.findall(text):
        if name == "runs":
            continue
        found = WHOLE.get(name, FIGURE).findall(block)
        prose = " ".join(line.strip() for line in block.splitlines() if not line.startswith("|"))
        prose = re.sub(SENTENCES.get(name, "(?!)"), "", FIGURE.sub("#", prose).replace("# to #", "#"))
        claims = CLAIMS.findall(prose)
        wrong += [] if found == right[name] and not claims else [f"{name}: {claims or ''} {found} {right[name]}"]
    return wrong


CLAIMED = re.compile(  # versions of Python and torch are no ratios
    r"(?i)(?<!b)(?<!torch )\b[0-24-9]\.\d\d\b(?!\.\d)|\d ?%"
    r"|\b(?:always|never|faster|slower|pays?|loses?|fastest|times as)\b"
)
BOUNDS = [rounded(L / (L - 2), 2) for L in (4, 6, 8)]
OUTSIDE = f"""make a BitNet model faster on this GPU|the fastest counts|Above 1, A is faster
|42 % of them zero before pruning|the fastest dense library is the rival
|The bounds are {BOUNDS[0]} for 2:4, {BOUNDS[1]} for 2:6 and {BOUNDS[2]} for 2:8
|how many times as fast as the fastest variant of stock vLLM our fastest dense engine is|whichever is faster at that M
|was not measured, and could be faster
|One with the fastest library of each linear is CUTLASS's in INT8 at 1,024 and 4,096
|has its own fastest dense engine|a ratio of it is neither faster nor slower
|on 2:4, which pays, and on 2:8, which does not""".replace("\n", "")
"""Phrases of the pages outside the blocks that hold a ratio or a claim, read and found right."""


def unread(text):
    """Sentences outside the blocks with a ratio, a percentage or a claim that nobody has read (OUTSIDE)."""
    prose = re.sub(r"```.*?```|`[^`]*`", "", BLOCK.sub("\n\n", text), flags=re.DOTALL)
    sentences = [each for part in prose.split("\n\n") for each in re.split(r"(?<=[.:])\s", " ".join(part.split()))]
    return [each for each in sentences if CLAIMED.search(re.sub(OUTSIDE, "", each))]
