"""Which groups the learner may train on, checked again at the moment of consumption."""

from __future__ import annotations

from collections.abc import Iterable

from configs.load import config_hash
from configs.schema import RunConfig
from editing.rollout_spec import rollout_spec
from editing.task import TaskSource
from editing.trajectory import TrajectoryGroup
from learner.update.step_report import Refusal
from rewards.compose import admit
from rewards.result import GroupScores


class Admission:
    """Refuses what does not belong to the run, is too old, or would be trained on twice.

    A slot of a step is trained on once, by whichever attempt comes first. Trained slots are remembered for as
    long as their groups would not be stale anyway.
    """

    def __init__(self, config: RunConfig, tasks: TaskSource) -> None:
        self._config, self._tasks = config, tasks
        self._config_hash = config_hash(config)
        self._waiting: dict[tuple[int, int], int] = {}
        self._trained: dict[tuple[int, int], int] = {}

    def refuse(self, group: TrajectoryGroup, scores: GroupScores, version: int) -> tuple[Refusal, str] | None:
        """Why the group may not be trained on at this policy version, or None."""
        name, lease = f"group {group.lease.group_id}", group.lease
        mismatch = self._mismatch(group, scores)
        if mismatch is None and group.policy_version > version:
            mismatch = f"was made by policy version {group.policy_version}, but the learner is at {version}"
        if mismatch is not None:
            return "mismatch", f"{name} {mismatch}"
        age, limit = version - group.policy_version, self._config.cluster.staleness
        if age > limit:
            return "stale", f"{name} is {age} policy versions old, cluster.staleness is {limit}"
        if (lease.step, lease.slot) in self._waiting or (lease.step, lease.slot) in self._trained:
            return "duplicate", f"{name}: slot {lease.slot} of step {lease.step} has been taken for training already"
        reason = admit(scores, self._config.min_valid)
        return None if reason is None else ("scores", reason)

    def take(self, group: TrajectoryGroup) -> None:
        """Counts an accepted group: it waits for the next step."""
        self._waiting[group.lease.step, group.lease.slot] = group.policy_version

    @property
    def waiting(self) -> int:
        """How many groups wait for the next step."""
        return len(self._waiting)

    def trained(self, version: int) -> None:
        """The waiting groups are in the weights of `version`."""
        oldest = version - self._config.cluster.staleness
        merged = {**self._trained, **self._waiting}
        self._trained = {slot: made_by for slot, made_by in merged.items() if made_by >= oldest}
        self._waiting = {}

    def state(self) -> list[list[int]]:
        """The remembered slots as JSON: [step, slot, policy version], sorted. Waiting groups are not in the weights,
        so they are not remembered."""
        return sorted([step, slot, version] for (step, slot), version in self._trained.items())

    def restore(self, state: Iterable[tuple[int, int, int]]) -> None:
        """Takes over a saved state."""
        self._trained = {(step, slot): version for step, slot, version in state}
        self._waiting = {}

    def _mismatch(self, group: TrajectoryGroup, scores: GroupScores) -> str | None:
        config, lease = self._config, group.lease
        if group.config_hash != self._config_hash:
            return f"was made under configuration {group.config_hash[:12]}, this run is {self._config_hash[:12]}"
        if not group.policy_version == lease.policy_version == scores.policy_version:
            return (
                f"mixes policy versions: leased for {lease.policy_version}, made by {group.policy_version}, "
                f"scored as {scores.policy_version}"
            )
        if scores.group_id != lease.group_id:
            return f"came with the scores of group {scores.group_id}"
        if len(scores.valid) != group.group_size:
            return f"has {group.group_size} candidates but scores for {len(scores.valid)}"
        spec = rollout_spec(config, lease)
        seen = (group.group_size, tuple(group.anchors.tolist()), group.kept_steps, len(group.sigmas) - 1)
        wanted = (spec.group_size, spec.anchors, spec.kept, spec.steps)
        if seen != wanted:
            return f"has (candidates, anchors, kept steps, solver steps) = {seen}, the configuration says {wanted}"
        if not 0 <= lease.task_index < len(self._tasks):
            return f"is for task {lease.task_index}, but there are {len(self._tasks)} training tasks here"
        task_id = self._tasks[lease.task_index].task_id
        if group.task_id != task_id:
            return f"is for task {group.task_id}, but training task {lease.task_index} is {task_id} here"
        return None
