"""The plan of a run, `{root}/{hardware}/plan.json`: its points, and the types that were left out.

{"points": {stage: {"model/dtype/backend/sparsity": [M, …]}}, "left_out": [{"what", "reason"}],
"parameters": {stage: measuring parameters}, "shapes": {model: another model that has its shape}, "acceptable": percent,
"tasks": {"model/dtype/backend/sparsity": {task of the harness: its content, or null}}}
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from slidesparse.errors import RecordError
from slidesparse.files import is_plain
from slidesparse.plan.key import Configuration
from slidesparse.points.strict import read_json

ACCEPTABLE = 1.0
"""`Plan.acceptable` of a plan that does not say it."""


@dataclass(frozen=True)
class Plan:
    """A plan as it is read.

    points: stage -> Configuration -> set of M.
    left_out: [{"what", "reason"}].
    parameters: stage -> measuring parameters.
    shapes: model -> the model whose tuning tables and kernel points it shares.
    acceptable: percent of bits per byte more than dense that a pattern may cost.
    tasks: Configuration -> {task of the harness: its content (plan.tasks)}.
    """

    points: dict = field(default_factory=dict)
    left_out: list = field(default_factory=list)
    parameters: dict = field(default_factory=dict)
    shapes: dict = field(default_factory=dict)
    acceptable: float = ACCEPTABLE
    tasks: dict = field(default_factory=dict)

    def asks(self, key):
        """Whether the point of a Key is planned."""
        return key.M in self.of_stage(key.stage).get(key.configuration, ())

    def of_stage(self, stage):
        """Configuration -> set of M of one stage."""
        return self.points.get(stage, {})


def what(item):
    """What an item of a plan leaves out. Plans of earlier versions left out types only."""
    return item["what"] if "what" in item else item["dtype"]


def read_plan(root, hardware):
    """The plan of one hardware key below a root, or None if there is none. Raises RecordError if it is damaged."""
    path = Path(root, hardware, "plan.json")
    if not os.path.isfile(path):
        return None
    plan = read_json(path)
    try:
        points = {
            stage: {Configuration.of(name): {int(M) for M in Ms} for name, Ms in names.items()}
            for stage, names in plan["points"].items()
        }
        left_out = [{"what": what(item), "reason": item["reason"]} for item in plan.get("left_out", [])]
        shapes = dict(plan.get("shapes", {}))
        parameters = {stage: dict(how) for stage, how in plan.get("parameters", {}).items()}
        acceptable = float(plan.get("acceptable", ACCEPTABLE))
        if not 0 <= acceptable < math.inf:
            raise ValueError("acceptable")
        tasks = {Configuration.of(name): dict(held) for name, held in plan.get("tasks", {}).items()}
        names = [task for held in tasks.values() for task in held]
        names += [part for name in tasks for part in name]
        names += [*shapes, *shapes.values(), *(part for held in points.values() for name in held for part in name)]
        if not all(map(is_plain, [*points, *names])):
            raise ValueError("a name")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RecordError(f"{path} is damaged: it is no plan of points by stage and configuration") from None
    return Plan(points, left_out, parameters, shapes, acceptable, tasks)
