"""What a pattern costs in quality: columns of the first table, a sentence of the first screen, and the whole table.

A score belongs to a checkpoint. So it stands beside every engine that runs the checkpoint, also of another backend.
"""

from slidesparse.plan import prompts
from slidesparse.report.document.model import NONE, Bullets, Table, fixed, interval, joined, number, say, whole
from slidesparse.report.sections.losses import losses, scores, signed
from slidesparse.report.sources.rows import by_configuration, spell

UNKNOWN = say("What a pattern costs in accuracy was not measured. Speed alone decides nothing.")

RULE = [
    say(
        "R is the model itself: ternary weights times their scale, and activations that are not quantised. Dense is"
        " compared with R, so its KL is what 8-bit activations cost. A pattern is compared with the dense checkpoint of"
        " its type, so its KL is what the pattern costs."
    ),
    say(
        "KL is the divergence of the predictions of a token over the whole vocabulary, KL(compared with || checkpoint),"
        " in nats: the mean, and what 99 % of the tokens do not exceed. Extra bits are of the text, over what it is"
        " compared with. Top 1 is the share of tokens for which both give the same token the largest probability."
    ),
    say("Intervals are of 95 %, by a bootstrap of the windows of the text (docs/measuring.md)."),
]

COLUMNS = say(
    "Bits per byte: what the model needs to encode a byte of the text, and over dense; lower is better. KL over dense:"
    " how far a pattern's predictions of a token are from those of the dense weights; 0 is none."
)

KNOWN = ("bits_per_byte", "perplexity", "extra_bits_per_byte", "divergence", "divergence_p99")


UNUSABLE = say("What a pattern costs in accuracy is unknown: no point tells it. Speed alone decides nothing.")


def is_known(source):
    """Whether a score tells what a pattern costs, in any model and type."""
    return any(row.status == "ok" and row.values["reference"] == "dense" for row in source.stage("quality"))


def heads(source, model, dtype):
    """Heads of the columns of the first table."""
    if not scores(source, model, dtype):
        return (say("quality"),)
    return say("bits per byte"), say("KL over dense, nats/token")


def cells(source, model, dtype, name):
    """Cells of one engine under `heads`. name: its Configuration, or None."""
    rows = scores(source, model, dtype)
    if not rows:
        tried = any(row.configuration[:2] == (model, dtype) for row in source.stage("quality"))
        return [say("unknown") if tried else say("not measured")]
    row = rows.get(name.sparsity) if name and not name.stock else None
    if row is None:
        return [NONE] * 2
    bits, loss = fixed(row.values["bits_per_byte"], 3), losses(source, model, dtype).get(name.sparsity)
    divergence = fixed(row.values["divergence"], 4) if row.values["reference"] == "dense" else NONE
    return [number(f"{bits} ({signed(loss.percent)})", bits.value) if loss else bits, divergence]


def sentence(source, types):
    """The sentence of the first screen on what patterns cost. types: {(model, type): its name}."""
    parts = []
    checkpoints = {}
    for (model, dtype), of in types.items():
        checkpoints.setdefault((prompts.apart(model)[0], dtype), of)
    for (model, dtype), of in checkpoints.items():
        figures, base = [], None
        for sparsity in scores(source, model, dtype):
            if pair := against_dense(source, model, dtype, sparsity):
                own, dense = pair
                figures += [] if dense == base else [say("dense {figure}", figure=dense)]
                figures.append(say("{pattern} {figure}", pattern=spell(sparsity), figure=own))
                base = dense
        if figures:
            parts.append(say("{of}: {figures}", of=of, figures=joined(figures, ", ")))
        elif is_known(source):
            parts.append(say("{of}: unknown", of=of))
    if parts:
        return say("Bits per byte of the text (lower is better), {parts}.", parts=joined(parts))
    return UNUSABLE if source.stage("quality") else UNKNOWN


def against_dense(source, model, dtype, sparsity):
    """Bits per byte of a pattern and of the dense checkpoint that it is compared with; None if not measured."""
    row = scores(source, model, dtype).get(sparsity)
    if row is None or row.values["reference"] != "dense":
        return None
    return tuple(fixed(row.values[f"{side}bits_per_byte"], 3) for side in ("", "reference_"))


def quality_blocks(source):
    """The table of all scores, with what it says, or a sentence that there are none."""
    rows = [row for row in source.stage("quality") if row.status == "ok"]
    if not rows:
        return [UNUSABLE if source.stage("quality") else UNKNOWN]
    shown = []
    for configuration, mine in by_configuration(rows).items():
        for row in mine:
            model, dtype, backend, sparsity = configuration
            own = row.values["reference"] == "dense"
            if not own:
                figures = [figure(row, f"reference_{name}", digits) for name, digits in ((KNOWN[0], 4), (KNOWN[1], 3))]
                shown.append([model, dtype, "R", NONE, *figures, *[NONE] * 4, *sizes(row)])
            what = "dense" if own else "R"
            shown.append([model, dtype, f"{backend}/{sparsity}", what, *figures_of(row), *sizes(row)])
    headers = ("model", "type", "checkpoint", "compared with", "bits per byte", "perplexity of a token", "extra bits")
    headers += ("KL, mean", "KL, 99 %", "same top 1, %", "tokens", "in windows of")
    return [Table("quality", headers, shown, "llll"), Bullets(RULE)]


def figures_of(row):
    """Cells of the figures of a row with their intervals."""
    found = [figure(row, name, digits) for name, digits in zip(KNOWN, (4, 3, 4, 5, 4), strict=True)]
    return [*found, figure(row, "top1_agreement", 1, 100)]


def figure(row, name, digits, unit=1):
    """A figure with its interval, in 1/`unit`."""
    values = [row.values.get(f"{name}{end}") for end in ("", "_ci_low", "_ci_high")]
    return interval(*(None if value is None else unit * value for value in values), digits)


def sizes(row):
    """Cells of the tokens that were scored, and of those of a window."""
    return [whole(row.M), whole(row.values["context"])]
