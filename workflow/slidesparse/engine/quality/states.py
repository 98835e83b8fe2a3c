"""The hidden states that an engine computes of a text, before the output head."""

import time

import torch

from slidesparse.errors import MeasurementError

UNQUANTISED = "slidesparse-unquantised"
"""In place of a backend: the model itself (vllm_plugin.unquantised)."""

STEP = 8192
"""Most tokens of a step, unless a window is longer."""


def size(tokens, context):
    """The fields of the engine.Size that windows of `context` tokens need, `tokens` in all."""
    windows = max(1, min(STEP, tokens) // context)
    sequences = 2 * windows  # those of the step before are still there
    return windows * context, sequences, context + 1, ((sequences, context + 1),), ()


def of(engine, windows, limit_s):
    """(hidden states [windows * context, hidden], what ran) of quality.windows.Windows, on the CPU.

    The states stand in the order of the windows. Those of a token predict it. What ran: {"linears", "step_tokens",
    "states_s"}; the last is how many seconds the steps took.

    limit_s: seconds after which a MeasurementError is raised.
    """
    inputs = windows.inputs
    context = len(inputs[0])
    together = _together(engine, len(inputs), context)
    engine.ask("states", True)
    try:
        limits = (together * context, engine.size.sequences)
        run = engine.run(inputs, 1, limits, time.monotonic() + limit_s)
    finally:
        steps = engine.ask("states", False)
    if len(steps) != len(run.steps):
        raise MeasurementError(f"{len(run.steps)} engine steps gave the states of {len(steps)}")
    rows = [(ids[:tokens], states[:tokens]) for (ids, states), (tokens, _) in zip(steps, run.steps, strict=True)]
    ran = {"linears": engine.ask("model", together * context)["linears"], "step_tokens": together * context}
    ran["states_s"] = run.elapsed_s
    return _ordered(inputs, rows), ran


def _together(engine, count, context):
    """Windows of a step: as many as fit, so that no step is one of the engine's CUDA graphs, which call no model."""
    for together in range(min(count, engine.size.tokens // context, engine.size.sequences // 2), 0, -1):
        if not {(n * context, n) for n in (together, count % together)} & set(engine.graphs):
            return together
    raise MeasurementError(
        f"steps of windows of {context} tokens are CUDA graphs of prefill, whose states cannot be read: change"
        " quality.context"
    )


def _ordered(inputs, steps):
    """The states of windows in their order. A window is found by its tokens; equal ones have equal states."""
    place = {tuple(window): i for i, window in enumerate(inputs)}
    context, found = len(inputs[0]), {}
    for ids, states in steps:
        for tokens, part in zip(ids.split(context), states.split(context), strict=True):
            found[place.get(tuple(tokens.tolist()))] = part
    if found.keys() != set(place.values()):
        raise MeasurementError("the engine's steps carried other tokens than the windows of the text")
    return torch.cat([found[place[tuple(window)]] for window in inputs])
