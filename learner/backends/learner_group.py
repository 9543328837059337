"""The learner on Ray: `learner.num_workers` processes on one node that act as one.

Every process is given every group, in the same order, and trains on its share; together they make the step. The first
one publishes, saves and exports for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from actors.fleet import FETCH_SECONDS
from cluster.placement import close_placement_group, in_placement_group, open_placement_group
from cluster.runtime import actor_options
from configs.schema import RunConfig
from editing.weights import WeightProof
from learner.backends.base import Delivered, Exported, Unsaved, step_limit
from learner.backends.learner_host import LearnerHost
from learner.backends.ray_results import result_of
from learner.errors import LearnerLost, RunInterrupted
from learner.update.step_report import StepReport, together

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup


@dataclass(frozen=True)
class Publishing:
    """Weights that are published: where they are, what they are announced as, and what the other processes hold."""

    weights: ray.ObjectRef
    announcement: ray.ObjectRef
    others: list[ray.ObjectRef]


class LearnerGroup:
    """The processes; they end with `close`."""

    def __init__(self, config: RunConfig, processes: Sequence[Any], placement: PlacementGroup | None = None) -> None:
        """Takes over handles of `LearnerHost`s, and the placement group that they are in."""
        self._config, self._limit = config, config.cluster.group_timeout
        self._processes, self._placement = list(processes), placement
        self._first = self._processes[0]

    @classmethod
    def open(cls, config: RunConfig, folder: Path, tasks: ray.ObjectRef) -> LearnerGroup:
        """Asks Ray for the processes, which are handed the run's tasks; `start` waits for them."""
        placement = open_placement_group(config)
        options = actor_options(config.cluster, config.cluster.gpus_for_learner)
        processes = [
            ray.remote(LearnerHost)
            .options(**options, **in_placement_group(placement, rank))
            .remote(config, folder, tasks=tasks)
            for rank in range(config.learner.num_workers)
        ]
        return cls(config, processes, placement)

    def start(self, step: int, allowed: Sequence[str] = ()) -> None:
        """Returns when all are ready, from the checkpoint after `step` optimizer steps.

        Raises:
            RunInterrupted: when they are not within `cluster.group_timeout`.
            LearnerLost: when one of them cannot start.
        """
        cluster, size = self._config.cluster, len(self._processes)
        started = [one.start.remote(step, allowed) for one in self._processes]
        ready, missing = ray.wait(started, num_returns=size, timeout=self._limit)
        for ref in ready:
            result_of("learner", ref, FETCH_SECONDS)
        if missing:
            raise RunInterrupted(
                f"The learner did not become ready within {self._limit:g} s (cluster.group_timeout). Raise it if the "
                f"editor takes longer to load; if no node of the cluster has {size * cluster.gpus_for_learner:g} GPUs "
                "(learner.num_workers times cluster.gpus_for_learner), lower those."
            )
        if size > 1:
            where = result_of("learner", self._first.meeting_point.remote(), FETCH_SECONDS)
            for ref in [one.join.remote(rank, size, where) for rank, one in enumerate(self._processes)]:
                result_of("learner", ref, self._limit)

    def publish(self, measured: bool = False) -> Publishing:
        """The weights to roll out under, or those that are `measured`. They may be sent on before it is known what they
        are announced as."""
        announcement, weights = self._first.publish.options(num_returns=2).remote(measured)
        return Publishing(weights, announcement, [one.fingerprint.remote(measured) for one in self._processes[1:]])

    def announced(self, publishing: Publishing) -> WeightProof:
        """What the weights are announced as.

        Raises:
            LearnerLost: when the processes do not hold the same.
        """
        published: WeightProof = result_of("learner", publishing.announcement, self._limit)
        for rank, ref in enumerate(publishing.others, 1):
            fingerprint = result_of("learner", ref, self._limit)
            if fingerprint != published.fingerprint:
                raise LearnerLost(
                    f"The learner's processes do not hold the same weights at version {published.version}: process 0 "
                    f"has {published.fingerprint[:12]}, process {rank} {fingerprint[:12]}. Continue "
                    "from the last checkpoint with --resume."
                )
        return published

    def consume(self, delivered: Delivered) -> list[ray.ObjectRef]:
        """Hands a group to all; what comes back says whether they took it."""
        return [one.consume.remote(delivered.handle, delivered.scores) for one in self._processes]

    def update(self) -> list[ray.ObjectRef]:
        """Has all make the optimizer step over the groups that they were handed since the last one; their reports."""
        return [one.update.remote() for one in self._processes]

    def step_of(self, reports: Sequence[StepReport]) -> StepReport:
        """What the processes report, as one.

        Raises:
            LearnerLost: when they do not tell of the same step.
        """
        try:
            return together(reports)
        except ValueError as error:
            raise LearnerLost(f"{error}. Continue from the last checkpoint with --resume.") from error

    def save(self, extra: Mapping[str, Any]) -> Path | Unsaved:
        """See `learner.backends.base.Backend.save`."""
        behind = self._limit + step_limit(self._config)  # it may have the groups of a step to take first
        saved: Path | Unsaved = result_of("learner", self._first.save.remote(extra), behind)
        return saved

    def export(self, folder: Path, metadata: Mapping[str, Any]) -> Exported:
        """See `learner.backends.base.Backend.export`."""
        exported: Exported = result_of("learner", self._first.export.remote(folder, dict(metadata)), self._limit)
        return exported

    def close(self) -> None:
        """Ends the processes and gives their placement group back."""
        for one in self._processes:
            ray.kill(one, no_restart=True)
        close_placement_group(self._placement)
