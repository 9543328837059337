"""The main loop, in the driver: collect groups -> update -> publish -> checkpoint -> report, step by step.

Groups reach the learner while others are still being rolled out, so collecting and learning overlap; see
`learner.scheduling.collector` for who waits for whom.
"""

from __future__ import annotations

from functools import partial

from configs.edit_signal import edit_rewards
from learner.backends.base import Delivered
from learner.errors import LearnerLost, RunFailed
from learner.reporting.notifications import ZeroVarianceAlarm, waiting
from learner.reporting.records import StepRecord
from learner.reporting.timer import Phases
from learner.scheduling.active_run import FRESH, ActiveRun, Resumed, TrainingResult
from learner.scheduling.collector import Collector
from learner.scheduling.evaluation import evaluate
from learner.scheduling.judge_monitor import JudgeMonitor
from learner.scheduling.sampler import LeaseSampler
from learner.scheduling.saving import MAX_DISK_FAILURES, save, save_unfinished
from learner.scheduling.step_records import group_record, step_record
from learner.state.rollback import MAX_SKIPPED_STEPS, Diverged
from learner.update.step_report import PAYLOAD, StepReport


def train(run: ActiveRun, resumed: Resumed = FRESH) -> TrainingResult:
    """Trains from the step that is done to `learner.steps`; afterwards the last weights are published and saved.

    A run without a checkpoint is saved before its first step too, so that it can be resumed from anywhere.

    Raises:
        Diverged: when too many steps in a row had no finite gradient; nothing is saved then.
        RunFailed: when the run cannot go on; unless the learner itself is lost, the steps that are done are saved.
        KeyboardInterrupt: when a stop was requested; the steps that are done are saved.
    """
    with run.stopping.deferred():
        try:
            return optimizer_steps(run, resumed)
        except (LearnerLost, Diverged):
            raise
        except RunFailed as error:
            stop = "" if str(error).endswith((".", "!", "?")) else "."
            raise RunFailed(f"{error}{stop} {save_unfinished(run)}") from error


def optimizer_steps(run: ActiveRun, resumed: Resumed) -> TrainingResult:
    """The loop itself; raises as `train`, with nothing saved."""
    config, backend, progress, every = run.config, run.backend, run.progress, run.config.checkpoint.every
    judges, zero_variance = (
        JudgeMonitor(backend, run.reporter.announce),
        ZeroVarianceAlarm(edit_rewards(config.rewards)),
    )
    sampler = LeaseSampler(config.seed, run.train_tasks, config.learner.groups_per_step, resumed.anew_from)
    collector = Collector(
        config, backend, sampler, run.reporter, progress.done, resumed, stop_if_asked=partial(stop_if_asked, run)
    )
    progress.counters = collector.settled_counters
    if progress.saved is None:
        save(run)
    for step in range(progress.done, config.learner.steps):
        done, last, phases = step + 1, step + 1 == config.learner.steps, Phases()
        measuring = not last and is_due(done, config.report.evaluate_every)
        with phases.timed("step"):
            with phases.timed("rollout"):
                groups = collector.collect(step, partial(show_group, run, step), judges.glance)
            with phases.timed("update"):
                report = backend.update(meanwhile=collector.lease)
            progress.done = done
            progress.sent.update({what: report.totals.counts[what] for what in ("groups", *PAYLOAD)})
            tell_spool(run, report)
            collector.settle(step, groups)
            progress.counters = collector.settled_counters
            tell_skip(run, report)
            if last or measuring or is_due(done, config.cluster.publish_every):
                with phases.timed("publish"):
                    collector.version = publish(run)
            progress.due |= is_due(done, every)
            if last or (progress.due and report.applied):  # while steps are skipped, the last one before is kept
                with phases.timed("checkpoint"):
                    save(run, last)
            stop_if_nothing_is_spooled(run, report)
        record = step_record(run, collector, groups, report, phases.seconds, judges.look())
        run.reporter.step(record)
        tell_alarms(run, record, zero_variance)
        if measuring:
            with phases.timed("evaluation"):
                evaluate(run, "training")
        progress.total.add(phases.seconds)
    sent = {what: progress.sent[what] / progress.sent["groups"] for what in PAYLOAD if progress.sent["groups"]}
    return TrainingResult(collector.ledger.balance(), progress.total.seconds, collector.spoiled, sent)


def publish(run: ActiveRun) -> int:
    """Publishes the learner's weights after the steps that are done and returns their version."""
    published, done = run.backend.publish(), run.progress.done
    if published.version != done:
        raise RunFailed(
            f"the learner published version {published.version} after {done} steps; versions count optimizer steps"
        )
    run.reporter.write(
        "published", version=published.version, fingerprint=published.fingerprint, modules=published.modules
    )
    return published.version


def stop_if_asked(run: ActiveRun) -> None:
    """Saves and raises the request to stop, if there is one."""
    if run.stopping.requested is not None:
        run.reporter.announce("stopping", step=run.progress.done, sentence=save_unfinished(run))
        raise run.stopping.requested


def stop_if_nothing_is_spooled(run: ActiveRun, report: StepReport) -> None:
    """Raises RunFailed when the disk refused groups of `MAX_DISK_FAILURES` steps in a row."""
    if run.progress.not_spooled >= MAX_DISK_FAILURES:
        why = next(iter(report.totals.unspooled.values()))
        raise RunFailed(
            f"In {run.progress.not_spooled} steps in a row the disk refused groups for the spool: "
            f"{why}. Make room, and continue with --resume."
        )


def show_group(run: ActiveRun, step: int, delivered: Delivered) -> None:
    """Reports a group that the learner took."""
    run.reporter.group(group_record(run, step, delivered))


def tell_spool(run: ActiveRun, report: StepReport) -> None:
    """Reports which groups of the step were spooled, with a notification for each that was not."""
    for group, seconds in report.totals.spooled.items():
        run.reporter.write("spooled", group=group, seconds=round(seconds, 6))
    for group, reason in report.totals.unspooled.items():
        run.reporter.announce("not_spooled", group=group, reason=reason)
    run.progress.not_spooled = run.progress.not_spooled + 1 if report.totals.unspooled else 0


def tell_skip(run: ActiveRun, report: StepReport) -> None:
    """Reports a step whose gradient was not finite.

    Raises:
        Diverged: when it is one too many.
    """
    if report.applied:
        return
    done = run.progress.done
    run.reporter.announce("step_skipped", step=done, in_a_row=report.skipped_in_a_row)
    if report.skipped_in_a_row >= MAX_SKIPPED_STEPS:
        raise Diverged(
            f"The gradient was not finite in {report.skipped_in_a_row} steps in a row, up to step {done}; lower "
            "learner.optimizer.lr, or use editor.dtype float32. The groups that caused it are in the run's folder "
            "faulty/."
        )


def tell_alarms(run: ActiveRun, record: StepRecord, zero_variance: ZeroVarianceAlarm) -> None:
    """Raises the alarms that a step's record alone gives rise to; those that compare it with the start of the run come
    from `learner.reporting.alarm_monitor`, an observer."""
    sentence = zero_variance.sentence(record.zero_std_share, record.edit_zero_variance_share)
    if sentence is not None:
        run.reporter.announce(
            "alarm", metric="zero_std_share", step=record.step, size=record.zero_std_share, sentence=sentence
        )
    unit = record.learner.get("preservation_unit")
    if (off := waiting(record.step, record.steps, unit)) is not None:
        run.reporter.announce("alarm", metric="preservation_unit", step=record.step, size=unit, sentence=off)


def is_due(done: int, every: int) -> bool:
    """Whether something that happens after every `every` steps (0: never) happens after `done` steps."""
    return every > 0 and done % every == 0
