"""The learner's process: opens what the learner needs and returns messages. A plain class; Ray only wraps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from configs.schema import RunConfig
from editing.data import Tasks, open_tasks
from editing.editors.base import Editor
from editing.editors.lora import largest_change
from editing.editors.policy import open_policy
from editing.trajectory import TrajectoryGroup
from editing.weights import WeightProof, WeightVersion
from learner.backends.base import Exported, Unsaved, step_limit
from learner.state.checkpoint import load_step
from learner.update import data_parallel
from learner.update.learner import Learner, LearnerError
from learner.update.step_report import StepReport
from rewards.result import GroupScores


class LearnerHost:
    """A learner with its editor and tasks."""

    def __init__(
        self, config: RunConfig, folder: Path, editor: Editor | None = None, tasks: Tasks | None = None
    ) -> None:
        """Opens the editor and the tasks that the configuration names, unless the caller shares its own."""
        torch.set_num_threads(config.cluster.threads_per_process)
        self.editor = open_policy(config.editor, config.seed) if editor is None else editor
        self.learner = Learner(config, self.editor, open_tasks(config) if tasks is None else tasks, folder)

    def meeting_point(self) -> str:
        """Where the learner's processes can meet, see `join`."""
        return data_parallel.meeting_point()

    def join(self, rank: int, size: int, meeting_point: str) -> None:
        """Meets the other processes of the learner; see `learner.update.data_parallel`."""
        self.learner.peers = data_parallel.join(rank, size, meeting_point, step_limit(self.learner.config))

    def start(self, step: int, allowed: Sequence[str] = ()) -> None:
        """Continues from the checkpoint after `step` optimizer steps; 0 is a fresh start.

        Raises:
            CheckpointError: when that checkpoint does not verify or belongs to another run, unless what differs is
                `allowed`.
        """
        if step > 0:
            self.learner.restore(load_step(self.learner.checkpoints, step), allowed)

    def consume(self, group: TrajectoryGroup, scores: GroupScores) -> None:
        """Hands a group to the learner.

        Raises:
            LearnerError: when the learner refuses it; the loop has checked the same rules before, so this is a
                fault of the program.
        """
        report = self.learner.consume(group, scores)
        if not report.accepted:
            raise LearnerError(f"the learner refused an admitted group: {report.reason}")

    def update(self) -> StepReport:
        """See `Learner.update`."""
        return self.learner.update()

    def publish(self, measured: bool = False) -> tuple[WeightProof, WeightVersion]:
        """What every worker must prove, and the weights: those to roll out under, or those that are `measured`."""
        weights = self.learner.measured() if measured else self.learner.publish()
        return weights.proof, weights

    def fingerprint(self, measured: bool = False) -> str:
        """The fingerprint of what `publish` gives."""
        return self.publish(measured)[0].fingerprint

    def save(self, extra: Mapping[str, Any]) -> Path | Unsaved:
        """See `Learner.save`; a disk that refuses is a response, not the end of the learner."""
        try:
            return self.learner.save(extra)
        except OSError as error:
            return Unsaved(str(error))

    def export(self, folder: Path, metadata: Mapping[str, Any]) -> Exported:
        """The adapter as a file that stock diffusers loads."""
        from editing.editors.adapter_file import export_adapter  # needs diffusers, which the driver does without

        with self.learner.behaviour.exported(self.learner.version):
            path = export_adapter(self.editor.transformer, folder, metadata)
            return Exported(path, largest_change(self.editor.transformer))
