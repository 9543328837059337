"""Collects what a gallery shows while a run goes on, and writes the page after each measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from configs.rewards import RewardsConfig
from configs.schema import RunConfig
from editing.data import Tasks, open_tasks
from editing.task import EditTask, Image, TaskError
from learner.log import warn
from learner.reporting.gallery.page import Gallery, GalleryError, GalleryGroup, GalleryTask, write_gallery
from learner.reporting.records import EvaluationRecord, GroupRecord, RunRecord, StepRecord
from rewards.compose import composed
from rewards.result import GroupScores
from rewards.scorer_api import ScoreInput
from rewards.scorers import SCORERS

TASK_METRICS = ("edit_score", "edit_psnr", "background_psnr")
"""What is said about each held-out image, where the task has what it needs."""


class GalleryReport:
    """An observer that writes `gallery/index.html` after every held-out measurement but the first.

    A run does not end for its images: where the page cannot be written, or a task cannot be read any more, that is
    said, and tried again after the next measurement.
    """

    def __init__(self, tasks_of: Callable[[RunConfig], Tasks] = open_tasks) -> None:
        """`tasks_of` opens the tasks of a run that brings none; it is called once, when there is something to show."""
        self._tasks_of = tasks_of
        self._run: RunRecord | None = None
        self._tasks: Tasks | None = None
        self._base: EvaluationRecord | None = None
        self._scores: dict[int, list[GroupScores]] = {}
        self._images: dict[int, list[tuple[GroupRecord, Image]]] = {}

    def on_start(self, record: RunRecord) -> None:
        self._run = record
        # A run that goes back to an earlier step starts again: what comes after it is done anew.
        for seen in (self._scores, self._images):
            for step in [step for step in seen if step >= record.first_step]:
                del seen[step]

    def on_notice(self, sentence: str) -> None:
        """Nothing: the gallery shows results."""

    def on_group(self, record: GroupRecord) -> None:
        # Scores of a whole step are kept: a component's scale may depend on all of its groups.
        self._scores.setdefault(record.step, []).append(record.scores)
        if record.images is not None:
            self._images.setdefault(record.step, []).append((record, record.images))

    def on_step(self, record: StepRecord) -> None:
        for step in [step for step in self._scores if step not in self._images]:
            del self._scores[step]

    def on_evaluation(self, record: EvaluationRecord) -> None:
        if record.label == "base":
            self._base = record
        elif self._run is not None and (record.shown or self._images):
            try:
                write_gallery(self._gallery(self._run, record), self._run.folder)
            except (OSError, GalleryError, TaskError) as error:
                warn("gallery_not_written", folder=str(self._run.folder / "gallery"), reason=str(error))

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """Nothing: the last measurement has written the page."""

    def _gallery(self, run: RunRecord, trained: EvaluationRecord) -> Gallery:
        if self._tasks is None:
            self._tasks = run.tasks or self._tasks_of(run.config)
        base = self._base
        before = {} if base is None else base.mean
        return Gallery(
            title=run.config.name,
            facts={
                "after step": f"{trained.step} of {run.config.learner.steps}",
                "held-out tasks": str(trained.tasks),
                "config": run.config_hash[:12],
                **reward_facts(run.config.rewards),
            },
            means={name: (before.get(name), value) for name, value in trained.mean.items()},
            tasks=tuple(_held_out(self._tasks, base, trained)),
            groups=tuple(group for step in sorted(self._images) for group in self._groups(run, step)),
        )

    def _groups(self, run: RunRecord, step: int) -> list[GalleryGroup]:
        assert self._tasks is not None
        rewards = run.config.rewards
        trained_on = dict(
            zip((scores.group_id for scores in self._scores[step]), composed(self._scores[step], rewards), strict=True)
        )
        groups = []
        for record, images in self._images[step]:
            reward = trained_on[record.scores.group_id]
            groups.append(
                GalleryGroup(
                    task=self._tasks.train[record.lease.task_index],
                    step=step + 1,
                    images=images,
                    rewards=tuple(
                        float(value) if valid else None
                        for value, valid in zip(reward.rewards, reward.valid, strict=True)
                    ),
                    components=record.scores.components,
                )
            )
        return groups


def _held_out(tasks: Tasks, base: EvaluationRecord | None, trained: EvaluationRecord) -> list[GalleryTask]:
    before = {} if base is None else {shown.index: shown for shown in base.shown}
    found = []
    for shown in trained.shown:
        task, old = tasks.held_out[shown.index], before.get(shown.index)
        after = image_metrics(task, shown.image)
        earlier = {} if old is None else image_metrics(task, old.image)
        found.append(
            GalleryTask(
                task=task,
                trained=shown.image,
                base=None if old is None else old.image,
                trained_attention=shown.attention,
                base_attention=None if old is None else old.attention,
                numbers={name: (earlier.get(name), value) for name, value in after.items()},
            )
        )
    return found


def image_metrics(task: EditTask, image: Image) -> dict[str, float]:
    """The metrics of one edited image uint8 [H, W, 3] that its task allows."""
    given = ScoreInput(task, image[None], None)
    scores = {name: SCORERS[name](given)[0].value for name in TASK_METRICS}
    return {name: value for name, value in scores.items() if value is not None}


def reward_facts(rewards: RewardsConfig) -> dict[str, str]:
    """What `reward` stands for, where it is not the weighted sum of the scores."""
    if rewards.composition == "sum":
        return {}
    return {"reward": f"E ({rewards.w1:g} + {rewards.w2:g} C) / {rewards.w1 + rewards.w2:g}, E edit, C preservation"}
