"""The protocol between the main loop and its backend, in one process or in many.

The loop says what is to be rolled out and in which order groups are trained on; a backend moves the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from configs.judges import JudgeConfig
from configs.schema import ClusterConfig, RunConfig
from editing.task import Image
from editing.trajectory import Generated, Lease, Shown
from editing.weights import WeightProof
from learner.errors import RunInterrupted
from rewards.result import GroupScores

if TYPE_CHECKING:
    from learner.update.step_report import StepReport


def scoring_limit(config: RunConfig) -> float:
    """Seconds that a pool with groups to score may take until it has scored another; it hangs if it takes longer.

    A request waits for `judge.patience` at most once it is sent, and may be sent a second time; a scorer of the
    user's own is ended after `scorer_deadline`. A long queue takes longer, but then others are finished meanwhile.
    """
    judged = 2 * config.rewards.judge.patience if config.rewards.judge.configured else 0.0
    return config.cluster.group_timeout + judged + (config.rewards.scorer_deadline if config.rewards.scorers else 0.0)


def taking_limit(cluster: ClusterConfig) -> float:
    """Seconds that a learner with groups to take may take until it has taken another."""
    return cluster.group_timeout


def step_limit(config: RunConfig) -> float:
    """Seconds that the learner may take for a step: for each group as long as its rollout may take."""
    return config.cluster.group_timeout * config.learner.groups_per_step


def judges_limit(judge: JudgeConfig) -> float:
    """Seconds within which all judges must have responded to a test image, or the run does not start."""
    served = [getattr(judge, name).serve for name in judge.configured]
    return judge.patience + max((one.start_timeout for one in served if one.replicas), default=0.0)


def overdue(config: RunConfig, waiting: int) -> RunInterrupted:
    """The error for a pool that takes longer than `scoring_limit` with so many groups waiting."""
    keys = (
        "cluster.group_timeout"
        + " + 2 * rewards.judge.patience" * bool(config.rewards.judge.configured)
        + " + rewards.scorer_deadline" * bool(config.rewards.scorers)
    )
    return RunInterrupted(
        f"The reward pool has scored none of {waiting} groups for {scoring_limit(config):g} s ({keys}), so it hangs. "
        "If loading a scorer of your own takes that long, raise cluster.group_timeout."
    )


@dataclass(frozen=True)
class Delivered:
    """A group that is generated and scored; the group itself is behind `handle`, which only the backend opens.

    After a resume `handle` is the group's `Spooled` file, which the collector loads before the group is consumed.
    """

    generated: Generated
    scores: GroupScores
    handle: Any = field(repr=False)

    @property
    def lease(self) -> Lease:
        return self.generated.lease


@dataclass(frozen=True)
class Taken:
    """A group that the learner has: no other process needs to keep it."""

    lease: Lease


@dataclass(frozen=True)
class Lost:
    """A lease whose group will not arrive.

    `spoiled`: the task is at fault (its files are gone or have changed), so that another attempt would fail too.
    """

    lease: Lease
    reason: str
    spoiled: bool = False


@dataclass(frozen=True)
class LostOnTheWay(Lost):
    """A group that had arrived and was handed over, but the learner does not have it."""


@dataclass(frozen=True)
class Exported:
    """The adapter as a file, and its largest change of a weight matrix relative to it, see
    `editing.editors.lora.largest_change`."""

    path: Path
    change: float


@dataclass(frozen=True)
class Unsaved:
    """The disk refused a checkpoint; earlier ones are as they were."""

    reason: str


@dataclass(frozen=True)
class HeldOut:
    """Measurements on held-out tasks.

    Attributes:
        metrics: per task the metrics it has; none for one that is spoiled or not finite.
        shown: images of the first few, without those.
        spoiled: why a task could not be measured, by its index.
        not_finite: of which tasks the editor makes no image, by index, since its latents contain NaN or infinity.
        running_mean: of the weights (`learner.optimizer.ema`), where that is what was measured.
    """

    metrics: Sequence[Mapping[str, float]]
    shown: tuple[Shown, ...]
    spoiled: Mapping[int, str] = field(default_factory=dict)
    not_finite: Mapping[int, str] = field(default_factory=dict)
    running_mean: WeightProof | None = None


class Backend(Protocol):
    """Rollout workers, reward pool and learner, however they are run."""

    def start(self, step: int, allowed: Sequence[str] = ()) -> None:
        """Brings everything up, the learner from its checkpoint after `step` optimizer steps (0: fresh), where the keys
        that are `allowed` may differ.

        The learner is ready then; workers come as `publish` finds them.
        """
        ...

    def publish(self) -> WeightProof:
        """Hands the learner's weights to every worker; none gets a lease before it has proved that it holds
        them."""
        ...

    def capacity(self) -> int:
        """How many more leases of the published version workers will take now."""
        ...

    def submit(self, lease: Lease) -> None:
        """Gives a lease to a worker; only when `capacity` is above zero."""
        ...

    def next_delivery(self, timeout: float) -> Delivered | Taken | Lost | None:
        """What arrives next, here or at the learner; None when within `timeout` seconds nothing did, or when only
        `capacity` changed.

        A group waits for its scores here, while others are rolled out. How many do is bounded by the leases that
        there are, see `learner.scheduling.collector.Collector`.

        Raises:
            RunFailed: when nothing can arrive any more; a judge that reached its failure limit is a reason.
            LearnerLost: when the learner refuses a group, or does not take one within `cluster.group_timeout`.
        """
        ...

    def pool_statistics(self) -> Mapping[str, float]:
        """See `RewardPool.statistics`; empty without judges."""
        ...

    def consume(self, delivered: Delivered) -> None:
        """Hands a group to the learner; `next_delivery` reports when it is taken, or that it was lost on the way."""
        ...

    def update(self, meanwhile: Callable[[], None]) -> StepReport:
        """The optimizer step over the groups taken since the last one.

        Args:
            meanwhile: called again and again while the learner works, if this process has nothing else to do then; may
                submit leases.
        """
        ...

    def images(self, delivered: Delivered) -> Image | None:
        """The candidates' images uint8 [G, H, W, 3], for a gallery; None when they are lost."""
        ...

    def measure_held_out(self, indices: Sequence[int], base: bool, shown: int) -> HeldOut:
        """The metrics of held-out tasks, and images of the first `shown`, under the base, or the published weights, or
        the running mean of the weights where there is one: workers prove that they hold it first, and hold the
        published weights again afterwards. No lease may be out or given meanwhile that its worker has not begun: they
        wait in line behind it."""
        ...

    def save(self, extra: Mapping[str, Any]) -> Path | Unsaved:
        """A checkpoint of the whole training state and of what the loop adds to it, JSON values."""
        ...

    def export(self, folder: Path, metadata: Mapping[str, Any]) -> Exported:
        """The adapter as a file for stock diffusers."""
        ...

    def close(self) -> None:
        """Ends every process and connection that `start` began; never raises."""
        ...
