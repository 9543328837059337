"""Records that a run passes to its observers: plain values, one call per event, nothing ever comes back.

Observers run in the driver, between pieces of work, and see numbers; images only where a report asked
for them. What an observer raises is logged, and the run goes on, see `learner.reporting.guard`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from configs.schema import RunConfig
from editing.data import Tasks
from editing.task import Image
from editing.trajectory import Lease, Shown
from editing.weights import WeightProof
from rewards.result import GroupScores

Notify = Callable[..., None]
"""Called as `notify(event, **fields)` for what only one part of the system sees (groups rolled out, workers started and
lost, judges ready); in a run it is `learner.reporting.reporter.Reporter.announce`."""


@dataclass(frozen=True)
class RunRecord:
    """What is about to run.

    `first_step` is the number of optimizer steps done already (0 for a new run, more after a resume);
    `refused_checkpoints` says why newer checkpoints were passed over at a resume, one sentence each; `tasks` are those
    of the run, opened.
    """

    config: RunConfig
    config_hash: str
    folder: Path
    first_step: int
    train_tasks: int
    held_out_tasks: int
    refused_checkpoints: tuple[str, ...] = ()
    tasks: Tasks | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class GroupRecord:
    """One trajectory group that was taken for training in `step` (0-based).

    `images` uint8 [G, H, W, 3] is filled for the `report.gallery_groups` groups chosen for the gallery.
    """

    step: int
    lease: Lease
    task_id: str
    scores: GroupScores
    staleness: int
    rollout_seconds: float
    images: Image | None = None


@dataclass(frozen=True)
class Counters:
    """Where every lease went since the run began: leased = trained + rejected + requeued + in_flight, at every moment.

    A resume goes on with the counters of its checkpoint; what was in flight then counts as requeued. `replayed` of the
    leased were not rolled out: the learner had them in its spool.
    """

    leased: int = 0
    trained: int = 0
    rejected: int = 0
    requeued: int = 0
    in_flight: int = 0
    replayed: int = 0


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step.

    Attributes:
        step: steps done, this one included (1-based).
        steps: steps of the whole run.
        version: policy version that generated from now on (published or still held).
        reward_mean: mean over the step's valid candidates, per component.
        reward_std: mean over groups of the standard deviation within the group, per component.
        zero_std_share: share of groups that teach nothing, 0..1: their combined reward has no variance, a filter leaves
            them out (`rewards.filters`), or no reward for the edit is above its floor.
        staleness: number of groups by policy age in optimizer steps.
        groups_per_minute: groups trained per minute of this step's wall time.
        counters: since the run began, over all resumes.
        seconds: wall time by phase: rollout (until the last group was handed to the learner), update,
            publish, checkpoint, and step (all of it).
        judge: numbers of the judges and their cache since the start, see `RewardPool.statistics`; empty without any.
        invalid: how many candidates had no score since the step before, by component and reason
            (`editscore_unavailable`), those of rejected groups included.
        edit_zero_variance_share: share of groups in which no reward for the edit is above its floor, 0..1; 0 where no
            component rewards the edit.
        silent: components that contributed nothing to the step, see `rewards.compose.GroupReward`.
        floored: components that varied by no more than their floor in so many groups of the step.
        learner: the learner's own numbers (`learner.update.step_report.StepReport.metrics`: loss terms, gradient norms,
            clipped fraction, learning rate, ...) and its seconds by phase, `<phase>_seconds`.
    """

    step: int
    steps: int
    version: int
    reward_mean: Mapping[str, float]
    reward_std: Mapping[str, float]
    zero_std_share: float
    staleness: Mapping[int, int]
    groups_per_minute: float
    counters: Counters
    seconds: Mapping[str, float]
    learner: Mapping[str, float]
    judge: Mapping[str, float] = field(default_factory=dict)
    invalid: Mapping[str, int] = field(default_factory=dict)
    edit_zero_variance_share: float = 0.0
    silent: tuple[str, ...] = ()
    floored: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationRecord:
    """A measurement on the held-out tasks, always with the same noise per task.

    Attributes:
        label: `base` (before training, adapter off), `training` (in between) or `final`.
        step: optimizer steps done.
        tasks: how many tasks were measured.
        mean: mean over tasks per metric, over the tasks that have it.
        standard_error: of that mean.
        seconds: wall time.
        shown: the first `report.gallery_tasks` tasks with their images.
        rows: the metrics of each task, in the order of the tasks.
        running_mean: of the weights, where that is what was measured.
    """

    label: str
    step: int
    tasks: int
    mean: Mapping[str, float]
    standard_error: Mapping[str, float]
    seconds: float
    shown: tuple[Shown, ...] = field(default=(), repr=False)
    rows: Sequence[Mapping[str, float]] = field(default=(), repr=False)
    running_mean: WeightProof | None = None


class Observer(Protocol):
    """Watches a run: console, metrics file, tracker, gallery."""

    def on_start(self, record: RunRecord) -> None:
        """The run folder exists, the tasks are open; processes start next."""

    def on_notice(self, sentence: str) -> None:
        """A notification for the operator: judges that are ready or in trouble, an alarm."""

    def on_group(self, record: GroupRecord) -> None:
        """A group went to the learner."""

    def on_step(self, record: StepRecord) -> None:
        """An optimizer step is done, published and (where due) saved."""

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """The held-out tasks were measured."""

    def on_end(self, summary: Mapping[str, Any]) -> None:
        """The run ended well; `summary` is what summary.json holds."""
