"""How many optimizer steps each row of a comparison has: at equal rollouts, and at equal CPU seconds of training.

Pure planning; what a group costs is measured by `evaluation.speed.methods` and kept in calibration.json of the table,
so that a resumed table has the same steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.load import config_hash
from configs.schema import RunConfig
from evaluation.runs import AblationError
from evaluation.speed.methods import MethodCost
from learner.state.provenance import code_fingerprint
from locus.common.files import write_whole

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class GroupSeconds:
    """What a group of a row costs: CPU seconds of its rollout and of the learner's work on it."""

    rollout: float
    update: float

    @property
    def total(self) -> float:
        """Of both."""
        return self.rollout + self.update


def steps_at_equal_rollouts(configs: Mapping[str, RunConfig], reference: str) -> dict[str, int]:
    """Steps at which every row has as many candidates rolled out as the reference has, to the nearest step."""
    per_step = {name: one.learner.groups_per_step * one.sampler.group_size for name, one in configs.items()}
    wanted = configs[reference].learner.steps * per_step[reference]
    return {name: max(1, round(wanted / count)) for name, count in per_step.items()}


def steps_at_equal_cpu(
    configs: Mapping[str, RunConfig], costs: Mapping[str, GroupSeconds], reference: str
) -> dict[str, int]:
    """Steps at which every row spends the CPU seconds of the reference on rollouts and updates, to the nearest step.

    The learning rate's schedule follows `learner.steps`, so that a row is not cut off in the middle of it.

        reference 40 steps of 12 groups at .4 s; a row of 12 groups at .5 s  ->  32 steps
    """
    per_step = {name: one.learner.groups_per_step * costs[name].total for name, one in configs.items()}
    wanted = configs[reference].learner.steps * per_step[reference]
    return {name: max(1, round(wanted / seconds)) for name, seconds in per_step.items()}


Measure = Callable[[Mapping[str, RunConfig], int], Mapping[str, MethodCost]]
"""(configurations by row, repetitions) -> what a group of each costs."""


def calibrated(
    folder: Path, configs: Mapping[str, RunConfig], repetitions: int, measure: Measure
) -> dict[str, GroupSeconds]:
    """The cost of a group of every row, measured together; or as an earlier call has measured and kept it.

    Raises:
        AblationError: when what is kept belongs to other rows, configurations or code.
    """
    path = folder / CALIBRATION
    wanted = {
        "rows": {name: config_hash(one) for name, one in configs.items()},
        "code": code_fingerprint(),
    }
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if {key: kept.get(key) for key in wanted} != wanted:
            raise AblationError(
                f"{path} was measured for other rows, configurations or code, and numbers of steps would differ from "
                "those of its runs; choose another --out or delete that folder."
            )
        return {name: GroupSeconds(**seconds) for name, seconds in kept["seconds"].items()}
    costs = measure(configs, repetitions)
    found = {name: GroupSeconds(cost.rollout_seconds, cost.update_seconds) for name, cost in costs.items()}
    text = json.dumps({**wanted, "seconds": {name: asdict(one) for name, one in found.items()}}, indent=1)
    write_whole(path, text + "\n")
    return found
