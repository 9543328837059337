"""A tiny editor, tasks and real groups for tests of the learner."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from actors.rollout import roll_out
from configs.load import config_hash
from configs.schema import RunConfig
from editing.data import Tasks, open_tasks
from editing.editors.base import Editor
from editing.editors.lora import adapter_arrays, copy_arrays
from editing.editors.policy import open_policy
from editing.trajectory import Lease, TrajectoryGroup
from editing.weights import fingerprint
from learner.algorithms.preservation_unit import GROUPS, Balance
from learner.update.learner import Learner
from rewards.result import GroupScores, Score

SETTLED = Balance(surrogate=GROUPS, background=GROUPS, groups=GROUPS)
"""The unit is 1, so that weights are plain factors and gradients are taken as groups come."""

GIVEN = ("sft", "dpo")
"""Methods that learn from given images, so that there is no policy to prove and nothing to reward."""


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in over.items():
        both[key] = merged(both.get(key, {}), value) if isinstance(value, Mapping) else value
    return both


def tiny_config(model, **over: Any) -> RunConfig:
    """RC-GRPO: four candidates, two anchors, three solver steps of which two are trained, two groups per step; what is
    measured is what is trained."""
    base = {
        "editor": {
            "path": str(model),
            "max_text_tokens": 10,
            "device": "cpu",
            "lora": {"targets": "attention", "rank": 8, "alpha": 16.0},
        },
        "data": {"type": "shapes", "train_tasks": 6, "held_out_tasks": 1},
        "sampler": {"group_size": 4, "steps": 3},
        "algorithm": {} if "type" in over.get("algorithm", {}) else {"type": "rc_grpo", "trained_steps": [0, 1]},
        "rewards": {} if over.get("algorithm", {}).get("type") in GIVEN else {"weights": {"edit_psnr": 1.0}},
        "learner": {"steps": 6, "groups_per_step": 2, "optimizer": {"ema": None, "final_lr_fraction": 0.2}},
    }
    return RunConfig.model_validate(merged(base, over))


def made_scores(group: TrajectoryGroup, values=None) -> GroupScores:
    """Scores that differ between groups and candidates; None is an error."""
    if values is None:
        values = np.random.default_rng(group.lease.seed).normal(size=group.group_size).tolist()
    row = tuple(Score(error="not scored") if v is None else Score(value=v) for v in values)
    background = tuple(Score(value=25.0 + (group.lease.seed + i) % 5) for i in range(group.group_size))
    watched = {"background_psnr": background}  # as the pool has it for every group
    name = "rank" if group.is_given else "edit_psnr"
    return GroupScores(group.lease.group_id, group.policy_version, {name: row}, 0.0, watched)


class Rig:
    """An actor's editor, a learner, and the groups that the one makes for the other."""

    def __init__(self, config: RunConfig, folder, balance: Balance | None = SETTLED) -> None:
        """With the unit of the preservation weights known, or another `balance`; None leaves it to the first step."""
        self.config = config
        self.tasks: Tasks = open_tasks(config)
        self.actor: Editor = open_policy(config.editor, config.seed)
        self.actor_version = 0
        self.learner = Learner(config, open_policy(config.editor, config.seed), self.tasks, folder)
        if balance is not None:
            self.learner._balance = balance

    def publish(self) -> None:
        weights = self.learner.publish()
        weights.apply(self.actor.transformer)
        self.actor_version = weights.version

    def group(self, step: int, slot: int, attempt: int = 0) -> TrajectoryGroup:
        place = step * self.config.learner.groups_per_step + slot
        lease = Lease(step, slot, place % len(self.tasks.train), attempt, 100 * place + attempt, self.actor_version)
        return roll_out(self.actor, self.tasks.train[lease.task_index], lease, self.config, config_hash(self.config))

    def groups(self, step: int) -> list[TrajectoryGroup]:
        return [self.group(step, slot) for slot in range(self.config.learner.groups_per_step)]

    def step(self, step: int):
        """One on-policy step, published before it begins; the learner's report."""
        self.publish()
        for group in self.groups(step):
            report = self.learner.consume(group, made_scores(group))
            assert report.accepted, report.reason
        return self.learner.update()


def renamed(group: TrajectoryGroup, **lease: int) -> TrajectoryGroup:
    """The group under a changed lease."""
    return replace(group, lease=replace(group.lease, **lease))


def weights_of(learner: Learner) -> str:
    return fingerprint(adapter_arrays(learner.editor.transformer))


def moved(rig: Rig, amount: float = 0.05, seed: int = 0) -> None:
    """Gives the learner an adapter that does something."""
    rng = np.random.default_rng(seed)
    transformer = rig.learner.editor.transformer
    copy_arrays(
        transformer,
        {
            name: (array + amount * rng.normal(size=array.shape)).astype("f4")
            for name, array in adapter_arrays(transformer).items()
        },
    )
