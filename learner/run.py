"""One whole run: folder, base measurement, training, final measurement, adapter, summary."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.edit_signal import check_edit_signal
from configs.load import config_hash
from configs.run_files import EVENTS
from configs.schema import RunConfig
from editing.data import Tasks, open_tasks
from editing.manifest.faults import grouped
from learner.backends.base import Backend, Exported, HeldOut
from learner.loop import Resumed, Trained, publish, train
from learner.reporting.alarm_monitor import AlarmWatch, notifications
from learner.reporting.guard import Harmless, made
from learner.reporting.notifications import announcer
from learner.reporting.records import Notify, Observer, RunRecord
from learner.reporting.reward_stats import mean_and_error, paired_counts, paired_gain
from learner.reporting.timer import Phases
from learner.reporting.verdict import judged, skipped_steps
from learner.scheduling.evaluation import measure
from learner.shutdown import Stopping
from learner.state.event_log import EventLog, read_events
from learner.state.provenance import code_fingerprint
from learner.state.resume import starting_point
from learner.state.rollback import Diverged, roll_back, rolled_back_to
from learner.state.run_dir import ADAPTER, SUMMARY, RunFolder, write_text
from learner.state.spool import recover
from locus.version import __version__


def run(
    config: RunConfig,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    allowed: Sequence[str] = (),
    stopping: Stopping | None = None,
) -> dict[str, Any]:
    """Trains as configured and returns what summary.json holds.

    A new run needs a new folder; with `resume` the newest checkpoint that verifies is continued, with the groups that
    the learner had taken since. A run that ended before its first checkpoint, when nothing was trained, starts; one
    whose checkpoints are gone does not. A run whose gradients stop being finite goes back once, see
    `learner.state.rollback`.

    Args:
        config: of the run.
        resume: continue it.
        observers: told of what happens; what they raise is said and ends nothing, see `learner.reporting.guard`.
        allowed: keys or sections of the configuration, `data` and `code` that may differ in a continued run.
        stopping: ends the run when somebody asks for it.

    Raises:
        ConfigError: when nothing in the configuration rewards or keeps the edit.
        RunRefused: when there is a run already, or none to continue as asked; nothing was changed.
        RunFailed: when the run cannot start or go on; checkpoints so far are kept.
    """
    check_edit_signal(config)
    observers, tasks = [Harmless(observer) for observer in observers], open_tasks(config)
    while True:
        try:
            return _attempt(config, tasks, resume, observers, allowed, stopping)
        except Diverged as diverged:
            step, resume = roll_back(Path(config.folder) / config.name, diverged), True
            for observer in observers:
                observer.on_notice(f"{diverged} The run goes back to step {step} and on with other noise.")


def _attempt(
    config: RunConfig,
    tasks: Tasks,
    resume: bool,
    observers: Sequence[Observer],
    allowed: Sequence[str],
    stopping: Stopping | None,
) -> dict[str, Any]:
    folder = RunFolder(config, resume, allowed)
    try:
        checkpoint, refused = starting_point(config, folder.path, tasks, allowed) if resume else (None, ())
        (folder.path / SUMMARY).unlink(missing_ok=True)  # of an end that is none any more
        first_step = 0 if checkpoint is None else checkpoint.step
        spooled, spool_refused = recover(folder.path, first_step, config_hash(config), config.learner.groups_per_step)
        resumed = Resumed(
            spooled, None if checkpoint is None else checkpoint.state["extra"]["books"], rolled_back_to(folder.path)
        )
        record = RunRecord(
            config,
            config_hash(config),
            folder.path,
            first_step,
            len(tasks.train),
            len(tasks.held_out),
            refused,
            tasks.handed(),
        )
        with EventLog(folder.path / EVENTS) as events:
            # A process that was killed at once may have left no line.
            events.write("resumed" if events.begun else "started", **_began(record, tasks, folder, allowed, resumed))
            folder.keep(config)  # only now: a change that is not in the event log yet is told by the next process
            for observer in observers:
                observer.on_start(record)
            announce = announcer(events, observers)
            for key, lines in tasks.faults.items():
                if lines:
                    announce(
                        "data_faults", key=key, count=len(lines), first=grouped(lines.faults), command=lines.command
                    )
            if tasks.remarks:
                announce("data_remarks", sentences=list(tasks.remarks))
            for reason in spool_refused:
                announce("spool_refused", reason=reason)
            try:
                summary = _run(record, events, observers, allowed, resumed, stopping)
                summary["left_out"]["lines"] = {key: lines.sentences() for key, lines in tasks.faults.items()}
                summary["data_remarks"] = list(tasks.remarks)
            except BaseException as error:
                events.write("failed", error=type(error).__name__, reason=str(error))
                raise
            write_text(folder.path / SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")
            events.write("finished", step=config.learner.steps)
        for observer in observers:
            observer.on_end(summary)
        return summary
    finally:
        folder.close()


def _began(
    record: RunRecord, tasks: Tasks, folder: RunFolder, allowed: Sequence[str], resumed: Resumed
) -> dict[str, Any]:
    """What the event log says of a process that begins, see `learner.state.event_types.Began`."""
    config = record.config
    return {
        "step": record.first_step,
        "locus_version": __version__,
        "config_hash": record.config_hash,
        "changed": list(folder.changed),
        "allowed": list(allowed),
        "data": tasks.fingerprints,
        "code": code_fingerprint(),
        "seed": config.seed,
        "steps": config.learner.steps,
        "groups_per_step": config.learner.groups_per_step,
        "updates_per_step": config.learner.updates_per_step,
        "group_size": config.exploration.group_size,
        "min_valid": config.rewards.min_valid,
        "staleness": config.cluster.staleness,
        "publish_every": config.cluster.publish_every,
        "checkpoint_every": config.checkpoint.every,
        "evaluate_every": config.report.evaluate_every,
        "train_tasks": record.train_tasks,
        "held_out_tasks": record.held_out_tasks,
        "anew_from": resumed.anew_from,
        "refused_checkpoints": list(record.refused_checkpoints),
    }


def _run(
    record: RunRecord,
    events: EventLog,
    observers: Sequence[Observer],
    allowed: Sequence[str],
    resumed: Resumed,
    stopping: Stopping | None,
) -> dict[str, Any]:
    config, phases = record.config, Phases()
    announce = announcer(events, observers)
    alarms = made(AlarmWatch, lambda: AlarmWatch(announce, read_events(record.folder / EVENTS)))
    for alarm in alarms:
        alarm.on_start(record)
    observers = [*observers, *alarms]
    tasks, last = record.held_out_tasks, config.learner.steps
    assert record.tasks is not None
    backend = make_backend(config, record.folder, announcer(events, observers), record.tasks)
    try:
        with phases.timed("total"):
            with phases.timed("start"):
                backend.start(record.first_step, allowed)
                publish(backend, events, record.first_step)
            with phases.timed("base_evaluation"):
                base = measure(config, backend, "base", record.first_step, tasks, events, observers)
            with phases.timed("training"):
                trained = train(
                    config, backend, record.train_tasks, tasks, record.first_step, events, observers, resumed, stopping
                )
            with phases.timed("final_evaluation"):
                final = measure(config, backend, "final", last, tasks, events, observers)
            exported = backend.export(
                record.folder / ADAPTER, {"run": config.name, "step": last, "base": config.editor.path}
            )
    finally:
        backend.close()
    return _summary(record, trained, base, final, exported, {**phases.seconds, **trained.seconds})


def make_backend(config: RunConfig, folder: Path, notify: Notify, tasks: Tasks) -> Backend:
    """The backend that `cluster.mode` names; Ray is imported only when it is asked for."""
    if config.cluster.mode == "ray":
        from learner.backends.ray import RayBackend

        return RayBackend(config, folder, notify, tasks)
    from learner.backends.inline import InlineBackend

    return InlineBackend(config, folder, notify, tasks)


def _summary(
    record: RunRecord,
    trained: Trained,
    before: HeldOut,
    after: HeldOut,
    exported: Exported,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Everything a person asks after a run, JSON values."""
    events = list(read_events(record.folder / EVENTS))
    steps = [event for event in events if event["event"] == "step"]

    def reward_std(step: int) -> float | None:
        # The last event of a step counts: earlier ones belong to a continuation that was given up.
        return next((event["reward_std"] for event in reversed(steps) if event["step"] == step), None)

    def block(found: tuple[dict[str, float], dict[str, float]]) -> dict[str, dict[str, float]]:
        return {"mean": found[0], "standard_error": found[1]}

    assert record.tasks is not None
    base, final = before.metrics, after.metrics
    gain, gain_error = paired_gain(base, final)
    verdict = judged(
        record.config.learner.steps,
        skipped_steps(events),
        exported.change,
        paired_counts(base, final),
        mean_and_error(base)[0],
        gain,
        gain_error,
        len(after.not_finite.keys() - before.not_finite.keys()),
    )
    return {
        "name": record.config.name,
        "folder": str(record.folder),
        "locus_version": __version__,
        "config_hash": record.config_hash,
        "code": code_fingerprint(),
        "data": record.tasks.fingerprints,
        "steps": record.config.learner.steps,
        "first_step": record.first_step,
        "held_out_tasks": record.held_out_tasks,
        "base": block(mean_and_error(base)),
        "final": block(mean_and_error(final)),
        "gain": block((gain, gain_error)),
        "verdict": {"outcome": verdict.outcome, "reasons": list(verdict.reasons)},
        "reward_std": {"first_step": reward_std(1), "last_step": reward_std(record.config.learner.steps)},
        "notifications": notifications(events),
        "counters": asdict(trained.counters),
        "left_out": {"tasks": {str(task): reason for task, reason in trained.spoiled.items()}},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "adapter": str(exported.path),
        "adapter_change": exported.change if math.isfinite(exported.change) else None,
    }
