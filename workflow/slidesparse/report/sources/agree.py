"""Whether the columns of one row of others' files agree with each other, as far as their rounding allows."""

from slidesparse.errors import RecordError
from slidesparse.report.tables.columns import M_COLUMN, WORKLOAD

RELATIVE = 2e-4
"""Largest relative difference that is taken as rounding, beside `ROUNDED`."""

OPERATIONS = 1e-3
"""Largest relative difference of operations a second from what a latency says. Published files have up to 8e-5."""

DECIMALS = 0.005
"""They may have two decimals only."""

LONGER = 1.1
"""GPU time may be that many times a step. Kept measurements have up to 1.041."""

ROUNDED = 1e-3
"""Seconds, requests/s and tokens/s may be off by this, and by half of their last decimal if that is more."""


def contradiction(stage, row, foreign=True):
    """What of a row contradicts the rest of it, as a sentence without a full stop; None if nothing does.

    row: the columns of the published layout (s, 1/s, tokens/s), None where they are not known.
    foreign: whether M is the prompts' length times their number, as in the published protocol. Ours may split M.
    """
    M, prompt, sequences, prompts = (row.get(name) for name in (M_COLUMN[stage], *WORKLOAD))
    requests, tokens, elapsed = (row.get(name) for name in ("requests_per_s", "tokens_per_s", "elapsed_time_s"))
    if stage == "prefill":
        per_request = M / sequences + 1 if sequences else None
        held = prompt * sequences if prompt and sequences else None
        steps, follows = row.get("N_prefill"), prompts / sequences if prompts and sequences else None
    else:
        output = row.get("output_len")
        per_request, held = (prompt + output if prompt and output else None), sequences
        steps, follows = row.get("N_decode"), output
    if foreign and held and held != M:
        return f"M={M}, but its prompts make M={held}"
    if foreign and steps and follows and steps != follows:
        return f"M={M} has {steps} steps, but {follows:g} follow from its other columns"
    checks = (
        ("tokens_per_s", tokens, requests and per_request and requests * per_request, requests),
        ("elapsed_time_s", elapsed, requests and prompts and prompts / requests, requests),
        ("steady_tokens_per_s", row.get("steady_tokens_per_s"), row.get("step_ms") and 1e3 * M / row["step_ms"], None),
    )
    for name, said, expected, other in checks:
        if said and expected and abs(said - expected) > tolerance(said, expected, other):
            return f"M={M} has {name} = {said:g}, but {expected:g} follows from its other columns"
    return None


def wrong_operations(row, latency, operations):
    """How the operations a second of a kernel row contradict its latency; None if they do not.

    row: with M, N and K. latency, operations: names of the columns with µs and 10¹² operations a second.
    """
    follows = 2 * row["M"] * row["N"] * row["K"] / row[latency] / 1e6
    allowed = OPERATIONS * follows + DECIMALS + half_unit(row[operations])
    if abs(row[operations] - follows) <= allowed + half_unit(row[latency]) / row[latency] * follows:
        return None
    where = f"M={row['M']} N={row['N']}"
    return f"{where} has {operations} = {row[operations]:g}, but {follows:g} follows from {latency}"


def wrong_step(row):
    """How the time of a step or the number of tokens of a tidy row contradicts the rest of it; None if it does not."""
    elapsed, steps, tokens = (row[name] for name in ("elapsed_s", "steps", "total_tokens"))
    follows = 1e3 * elapsed / steps if elapsed and steps else None
    said = row["ms_per_step"]
    if said is not None and follows and abs(said - follows) > tolerance(said, follows, elapsed):
        return f"M={row['M']} has ms_per_step = {said:g}, but {follows:g} follows from its other columns"
    each = [row[name] for name in ("prompt_len", "output_len", "num_prompts")]
    if tokens is not None and None not in each and tokens != (each[0] + each[1]) * each[2]:
        return f"M={row['M']} has total_tokens = {tokens}, but {(each[0] + each[1]) * each[2]} follow"
    return None


def wrong_tops(row):
    """How `tops`, which counts K', contradicts the latency of a tidy kernel row; None if it does not."""
    if row["tops"] is None:
        return None
    return wrong_operations(row | {"K": row["K_expanded"]}, "latency_us", "tops")


def longer_on_gpu(path, table):
    """Sentences on rows of our CSVs whose GPU time is longer than the step in which it was spent.

    Several repeats are timed and other ones profiled, so that a GPU at its power limit may differ by some percent.
    """
    sentences = []
    for row in table:
        if is_longer_on_gpu(row):
            M = row.get("M_prefill") or row.get("M_decode")
            sentences.append(
                f"{path}: M={M} has a step of {row['step_ms']:g} ms with {row['gpu_step_ms']:g} ms of GPU time in it:"
                " one of them is wrong"
            )
    return sentences


def is_longer_on_gpu(row):
    """Whether a row of a CSV has more GPU time than the step in which it was spent, beyond what `LONGER` allows."""
    step = row.get("step_ms_ci_high") or row.get("step_ms")
    gpu = row.get("gpu_step_ms_ci_low") or row.get("gpu_step_ms")
    return bool(step and gpu and gpu > LONGER * step)


def refuse_contradiction(path, stage, table, foreign=True):
    """Raise RecordError if a row of a file, as `contradiction` takes it, contradicts itself."""
    for row in table:
        wrong = contradiction(stage, row, foreign)
        if wrong:
            raise RecordError(f"{path} contradicts itself: {wrong}")


def tolerance(said, follows, other):
    """How far two figures may differ: relatively, and by the last decimals of both and of what one was made from."""
    own, made_from = (max(ROUNDED, half_unit(each)) if each else 0 for each in (said, other))
    return RELATIVE * abs(follows) + own + (made_from * abs(follows / other) if other else 0)


def half_unit(value):
    """Half of the last decimal with which a figure is written: 0.05 of 5.1. Of a whole number none is known: 0."""
    decimals = repr(float(value)).partition(".")[2]
    return 0.0 if decimals in ("", "0") or "e" in decimals else 0.5 * 10.0 ** -len(decimals)
