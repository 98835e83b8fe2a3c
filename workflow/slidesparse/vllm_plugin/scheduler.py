"""vLLM schedulers that record what every step carried, so that a point can say what was measured."""

from typing import NamedTuple
from weakref import WeakSet

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

_made = WeakSet()


def of(vllm_config):
    """The scheduler of this process that was made with `vllm_config`."""
    return next(scheduler for scheduler in _made if scheduler.vllm_config is vllm_config)


class Step(NamedTuple):
    """Tokens and sequences that one engine step carried, and how many of the sequences are new."""

    tokens: int
    sequences: int
    new_sequences: int


class _Recording:
    """A scheduler with a `steps` list of `Step`, until a reader clears it."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.steps = []
        _made.add(self)

    def schedule(self, *arguments, **keywords):
        output = super().schedule(*arguments, **keywords)
        if output.total_num_scheduled_tokens:
            self.steps.append(
                Step(
                    output.total_num_scheduled_tokens,
                    len(output.num_scheduled_tokens),
                    len(output.scheduled_new_reqs),
                )
            )
        return output

    def limit(self, tokens, sequences):
        """Set the budget of a step: `tokens` scheduled tokens and `sequences` running requests."""
        self.max_num_scheduled_tokens = tokens
        if hasattr(self, "max_num_active_reqs"):
            self.max_num_active_reqs = sequences
        else:
            self.max_num_running_reqs = sequences


class RecordingScheduler(_Recording, Scheduler):
    """vLLM's scheduler, which plans a step when the one before has ended."""


class AsyncRecordingScheduler(_Recording, AsyncScheduler):
    """vLLM's scheduler that plans a step while the one before runs."""
