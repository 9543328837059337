"""The main loop: gather groups -> update -> publish -> checkpoint -> report, step by step.

Groups reach the learner while others are still being rolled out, so gathering and learning overlap; see
`learner.scheduling.collector` for who waits for whom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from configs.edit_signal import edit_rewards
from configs.schema import RunConfig
from learner.backends.base import Backend, Delivered, Unsaved
from learner.errors import LearnerLost, RunFailed
from learner.reporting.notifications import FlatAlarm, announcer, waiting
from learner.reporting.records import Counters, GroupRecord, Notify, Observer, StepRecord
from learner.reporting.reward_stats import REWARD, reward_statistics
from learner.reporting.timer import Phases
from learner.scheduling.collector import Gatherer
from learner.scheduling.evaluation import measure
from learner.scheduling.judge_monitor import JudgeWatch
from learner.scheduling.ledger import staleness
from learner.scheduling.sampler import LeaseSampler
from learner.shutdown import Stopping
from learner.state.event_log import EventLog
from learner.state.rollback import MAX_SKIPPED_STEPS, Diverged
from learner.state.spool import Spooled
from learner.update.step_report import StepReport

MAX_DISK_FAILURES = 3
"""Checkpoints, or steps with a group that could not be spooled, in a row. A disk that somebody else filled for a moment
is free again by the next step; one that is full three times in a row stays so, and the longer the run goes on, the more
work hangs on a checkpoint that is ever older."""


@dataclass(frozen=True)
class Trained:
    """What the loop leaves behind; `spoiled` says why training tasks were left out, by index."""

    counters: Counters
    seconds: dict[str, float]
    spoiled: Mapping[int, str]


@dataclass(frozen=True)
class Resumed:
    """What a run goes on with besides the learner's weights: groups to take again, the books of the checkpoint (None:
    there is none yet), and the step that it was rolled back to, if it was."""

    spooled: tuple[Spooled, ...] = ()
    books: Mapping[str, int] | None = None
    anew_from: int | None = None


@dataclass
class _Progress:
    """Optimizer steps that are done, up to which of them the newest checkpoint goes (None: there is none), whether
    another is due, the books after them, and how often in a row the disk refused a checkpoint or a step's groups."""

    done: int
    saved: int | None
    due: bool = False
    books: Mapping[str, int] = field(default_factory=dict)
    not_saved: int = 0
    not_spooled: int = 0
    total: Phases = field(default_factory=Phases)


def train(
    config: RunConfig,
    backend: Backend,
    train_tasks: int,
    held_out_tasks: int,
    first_step: int,
    events: EventLog,
    observers: Sequence[Observer],
    resumed: Resumed = Resumed(),
    stopping: Stopping | None = None,
) -> Trained:
    """Trains from `first_step` to `learner.steps`; afterwards the last weights are published and saved.

    A run without a checkpoint is saved before its first step too, so that it can be resumed from anywhere.

    Raises:
        Diverged: when too many steps in a row had no finite gradient; nothing is saved then.
        RunFailed: when the run cannot go on; unless the learner itself is lost, the steps that are done are saved.
        KeyboardInterrupt: when `stopping` was requested; the steps that are done are saved.
    """
    progress = _Progress(first_step, None if resumed.books is None else first_step)
    stopping = stopping or Stopping()
    with stopping.deferred():
        try:
            return _train(config, backend, train_tasks, held_out_tasks, progress, events, observers, resumed, stopping)
        except (LearnerLost, Diverged):
            raise
        except RunFailed as error:
            stop = "" if str(error).endswith((".", "!", "?")) else "."
            raise RunFailed(f"{error}{stop} {_saved(backend, progress, events)}") from error


def _train(
    config: RunConfig,
    backend: Backend,
    train_tasks: int,
    held_out_tasks: int,
    progress: _Progress,
    events: EventLog,
    observers: Sequence[Observer],
    resumed: Resumed,
    stopping: Stopping,
) -> Trained:
    steps, first_step = config.learner.steps, progress.done
    announce = announcer(events, observers)

    def pause() -> None:
        if stopping.requested is not None:
            announce("stopping", step=progress.done, sentence=_saved(backend, progress, events))
            raise stopping.requested

    judges, alarm = JudgeWatch(backend, announce), FlatAlarm(edit_rewards(config.rewards))
    sampler = LeaseSampler(config.seed, train_tasks, config.learner.groups_per_step, resumed.anew_from)
    gatherer = Gatherer(config, backend, sampler, events, first_step, resumed.spooled, resumed.books, pause, announce)
    progress.books = gatherer.settled
    if progress.saved is None:
        _save(backend, progress, events, announce)
    for step in range(first_step, steps):
        done, last, phases = step + 1, step + 1 == steps, Phases()
        measuring = not last and is_due(done, config.report.evaluate_every)
        with phases.timed("step"):
            with phases.timed("rollout"):
                groups = gatherer.gather(
                    step, partial(show_group, config, backend, observers, step), idle=judges.glance
                )
            with phases.timed("update"):
                report = backend.update(meanwhile=gatherer.lease)
            progress.done = done
            _tell_spool(report, progress, events, announce)
            gatherer.settle(step, groups)
            progress.books = gatherer.settled
            _tell_skip(report, done, announce)
            if last or measuring or is_due(done, config.cluster.publish_every):
                with phases.timed("publish"):
                    gatherer.version = publish(backend, events, done)
            progress.due |= is_due(done, config.checkpoint.every)
            if last or (progress.due and report.applied):  # while steps are skipped, the last one before is kept
                with phases.timed("checkpoint"):
                    _save(backend, progress, events, announce, last)
            if progress.not_spooled >= MAX_DISK_FAILURES:
                why = next(iter(report.totals.unspooled.values()))
                raise RunFailed(
                    f"In {progress.not_spooled} steps in a row the disk refused groups for the spool: "
                    f"{why}. Make room, and continue with --resume."
                )
        record = step_record(config, done, gatherer, groups, report, phases, judges.look())
        show_step(record, events, observers)
        sentence = alarm.sentence(record.zero_std_share, record.edit_flat_share)
        if sentence is not None:
            announce("alarm", metric="zero_std_share", step=done, size=record.zero_std_share, sentence=sentence)
        unit = record.learner.get("preservation_unit")
        if (off := waiting(done, steps, unit)) is not None:
            announce("alarm", metric="preservation_unit", step=done, size=unit, sentence=off)
        if measuring:
            with phases.timed("evaluation"):
                measure(config, backend, "training", done, held_out_tasks, events, observers)
        progress.total.add(phases.seconds)
    return Trained(gatherer.ledger.balance(), progress.total.seconds, gatherer.spoiled)


def _tell_spool(report: StepReport, progress: _Progress, events: EventLog, announce: Notify) -> None:
    """Tells the diary how the step's groups got to disk, and a person where they did not."""
    for group, seconds in report.totals.spooled.items():
        events.write("spooled", group=group, seconds=round(seconds, 6))
    for group, reason in report.totals.unspooled.items():
        announce("not_spooled", group=group, reason=reason)
    progress.not_spooled = progress.not_spooled + 1 if report.totals.unspooled else 0


def _tell_skip(report: StepReport, done: int, announce: Notify) -> None:
    """Tells of a step whose gradient was not finite.

    Raises:
        Diverged: when it is one too many.
    """
    if report.applied:
        return
    announce("step_skipped", step=done, in_a_row=report.skipped_in_a_row)
    if report.skipped_in_a_row >= MAX_SKIPPED_STEPS:
        raise Diverged(
            f"The gradient was not finite in {report.skipped_in_a_row} steps in a row, up to step {done}; lower "
            "learner.optimizer.lr, or use editor.dtype float32. The groups that made it so are in the run's folder "
            "faulty/."
        )


def _save(backend: Backend, progress: _Progress, events: EventLog, announce: Notify, last: bool = False) -> None:
    """A checkpoint; if the disk refuses, a warning: it is due again after the next step.

    Raises:
        RunFailed: when there is no next step, or the disk has refused `MAX_DISK_FAILURES` times in a row.
    """
    outcome = _checkpoint(backend, progress, events)
    if isinstance(outcome, Path):
        return
    progress.due, progress.not_saved = True, progress.not_saved + 1
    announce("not_saved", step=progress.done, reason=outcome.reason)
    if last or progress.not_saved >= MAX_DISK_FAILURES:
        raise RunFailed(
            f"The disk has refused a checkpoint {progress.not_saved} time(s) in a row: {outcome.reason}. "
            "Make room, and continue with --resume."
        )


def _checkpoint(backend: Backend, progress: _Progress, events: EventLog) -> Path | Unsaved:
    outcome = backend.save({"books": dict(progress.books)})
    if isinstance(outcome, Path):
        progress.saved, progress.due, progress.not_saved = progress.done, False, 0
        events.write("checkpoint", step=progress.done, path=outcome.name)
    return outcome


def _saved(backend: Backend, progress: _Progress, events: EventLog) -> str:
    """Saves what is done and not saved yet, and says so. Groups of the step that was cut short are in the spool."""
    books = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in progress.books.items())
    told = f"Groups so far: {books}."
    if progress.saved == progress.done:
        return f"The run is saved up to its last step, {progress.done}; continue it with --resume. {told}"
    try:
        outcome = _checkpoint(backend, progress, events)
    except RunFailed as error:
        outcome = Unsaved(str(error))
    if isinstance(outcome, Unsaved):
        before = "There is no checkpoint." if progress.saved is None else f"The last one is of step {progress.saved}."
        return f"The {progress.done} steps so far could not be saved either: {outcome.reason}. {before} {told}"
    return f"The run is saved up to step {progress.done} in {outcome}; continue it with --resume. {told}"


def is_due(done: int, every: int) -> bool:
    """Whether something that happens after every `every` steps (0: never) happens after `done` steps."""
    return every > 0 and done % every == 0


def publish(backend: Backend, events: EventLog, step: int) -> int:
    """Publishes the learner's weights after `step` optimizer steps and returns their version."""
    published = backend.publish()
    if published.version != step:
        raise RunFailed(
            f"the learner published version {published.version} after {step} steps; versions count optimizer steps"
        )
    events.write("published", version=published.version, fingerprint=published.fingerprint, modules=published.modules)
    return published.version


def step_record(
    config: RunConfig,
    done: int,
    gatherer: Gatherer,
    groups: Sequence[Delivered],
    report: StepReport,
    phases: Phases,
    judge: Mapping[str, float],
) -> StepRecord:
    """The record of the step that is done; raises LedgerError when the books do not balance."""
    rewards = reward_statistics([delivered.scores for delivered in groups], config.rewards)
    ages = Counter(staleness(done - 1, delivered.generated.policy_version) for delivered in groups)
    return StepRecord(
        step=done,
        steps=config.learner.steps,
        version=gatherer.version,
        reward_mean=rewards.mean,
        reward_std=rewards.std,
        zero_std_share=rewards.zero_std_share,
        edit_flat_share=rewards.edit_flat_share,
        staleness=dict(sorted(ages.items())),
        groups_per_minute=60 * len(groups) / phases.seconds["step"],
        counters=gatherer.ledger.balance(),
        seconds=dict(phases.seconds),
        learner={**report.metrics, **{f"{phase}_seconds": spent for phase, spent in report.totals.seconds.items()}},
        judge=judge,
        invalid=gatherer.invalid(),
        silent=rewards.silent,
        floored=rewards.floored,
    )


def show_step(record: StepRecord, events: EventLog, observers: Sequence[Observer]) -> None:
    """Tells the diary and the observers about a step."""
    events.write(
        "step",
        step=record.step,
        reward_mean=record.reward_mean[REWARD],
        reward_std=record.reward_std[REWARD],
        gradient_norm=record.learner.get("gradient_norm"),
        lr=record.learner["lr"],
        counters=asdict(record.counters),
    )
    for observer in observers:
        observer.on_step(record)


def show_group(
    config: RunConfig, backend: Backend, observers: Sequence[Observer], step: int, delivered: Delivered
) -> None:
    """Tells the observers about a group that was taken, with its pictures if the gallery wants them."""
    generated = delivered.generated
    wanted = delivered.lease.slot == 0 and step in gallery_steps(config.learner.steps, config.report.gallery_groups)
    record = GroupRecord(
        step,
        generated.lease,
        generated.task_id,
        delivered.scores,
        staleness(step, generated.policy_version),
        generated.seconds,
        images=backend.images(delivered) if wanted else None,
    )
    for observer in observers:
        observer.on_group(record)


def gallery_steps(steps: int, count: int) -> frozenset[int]:
    """`count` steps spread over the run, the first and the last among them: their first group is shown."""
    if count == 0:
        return frozenset()
    if count == 1:
        return frozenset({steps - 1})
    return frozenset(round(place * (steps - 1) / (count - 1)) for place in range(count))
