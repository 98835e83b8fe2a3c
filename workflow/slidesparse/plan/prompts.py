"""The prompt of a prefill point: the most tokens that a prompt of its steps has. No other stage chooses it.

Points of the USUAL prompt have their M alone in their names. Others have the prompt, too: `M8192-prompt2048.json` is
the point of steps of 8192 tokens in four prompts of 2048. In plans and reports such points are those of a model at that
prompt, `BitNet-2B-prompt2048`, which is a name of its own. So no other prompt stands in a comparison with them, and
they have an engine of their own, which is no larger than these points need.
"""

import re

USUAL = 1024
"""Tokens of the prompt of all points whose names do not say it."""

POSITIONS = 4096
"""Positions of a model whose entry in the registry does not say them. A prompt of n tokens needs n + 1."""

OTHER = rf"-prompt(?!{USUAL}(?![0-9]))[1-9][0-9]{{0,11}}"
"""What a name has at its end if its prompt is not the usual one. No model of a registry has it."""

APART = re.compile(f"(.+)({OTHER})", re.DOTALL)

NAME = f"[1-9][0-9]{{0,11}}(?:{OTHER})?"
"""What stands behind the M in a point's name."""


def name(M, prompt):
    """`8192-prompt2048`, or `8192` of the usual prompt."""
    return at(str(M), prompt)


def read(name):
    """(M, prompt) of such a name, which fits NAME."""
    M, prompt = apart(name)
    return int(M), prompt


def at(model, prompt):
    """`BitNet-2B-prompt2048`, or `BitNet-2B` at the usual prompt."""
    return model if prompt == USUAL else f"{model}-prompt{prompt}"


def apart(name):
    """(`BitNet-2B`, 2048) of `BitNet-2B-prompt2048`, or (name, USUAL)."""
    match = APART.fullmatch(name)
    return (match[1], int(match[2].removeprefix("-prompt"))) if match else (name, USUAL)


def steps(Ms, prompts):
    """[(M, prompt)] of the points that a plan has.

    An M up to a prompt is one prompt of M tokens. So it has a point of the shortest such prompt, and of none above it.
    """
    return [(M, prompt) for prompt in prompts for M in Ms if not any(M <= other < prompt for other in prompts)]


def measuring(stage, parameters, prompt):
    """The measuring parameters of a point: those of its stage, and in prefill its prompt."""
    return parameters | {"prompt_cap": prompt} if stage == "prefill" else parameters
