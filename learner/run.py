"""One whole run, in the driver: run directory, base measurement, training, final measurement, adapter, summary.

`run` goes back once where the weights diverge. Inside it `run_in_folder` holds the folder, finds the starting point and
keeps the event log; inside that `measured_training` opens the backend and measures before and after
`learner.loop.train`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.edit_signal import check_edit_signal
from configs.load import config_hash
from configs.run_files import EVENTS
from configs.schema import RunConfig
from editing.data import Tasks, open_tasks
from editing.manifest.faults import grouped
from learner.algorithms.registry import open_algorithm
from learner.backends.base import Backend
from learner.loop import publish, train
from learner.reporting.alarm_monitor import AlarmMonitor
from learner.reporting.guard import Harmless, made
from learner.reporting.records import Notify, Observer, RunRecord
from learner.reporting.reporter import Reporter
from learner.reporting.timer import Phases
from learner.scheduling.active_run import ActiveRun, Progress, Resumed
from learner.scheduling.evaluation import evaluate
from learner.shutdown import Stopping
from learner.state.event_log import EventLog, read_events
from learner.state.provenance import code_fingerprint
from learner.state.resume import starting_point
from learner.state.rollback import Diverged, roll_back, rolled_back_to
from learner.state.run_dir import ADAPTER, SUMMARY, RunFolder
from learner.state.spool import recover
from learner.summary import summary
from locus.common.files import write_whole
from locus.version import __version__


@dataclass(frozen=True)
class Request:
    """The opened request; see `run`."""

    config: RunConfig
    tasks: Tasks
    observers: Sequence[Observer]
    allowed: Sequence[str]
    stopping: Stopping


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
        observers: notified of events; what they raise is reported and ends nothing, see `learner.reporting.guard`.
        allowed: keys or sections of the configuration, `data` and `code` that may differ in a continued run.
        stopping: ends the run when that is requested.

    Raises:
        ConfigError: when nothing in the configuration rewards or keeps the edit, or the method is not there.
        RunRefused: when there is a run already, or none to continue as asked; nothing was changed.
        RunFailed: when the run cannot start or go on; checkpoints so far are kept.
    """
    check_edit_signal(config)
    open_algorithm(config.algorithm)  # a method of the user's own that cannot be imported ends here, in no time
    request = Request(
        config, open_tasks(config), [Harmless(observer) for observer in observers], allowed, stopping or Stopping()
    )
    while True:
        try:
            return run_in_folder(request, resume)
        except Diverged as diverged:
            step, resume = roll_back(Path(config.folder) / config.name, diverged), True
            for observer in request.observers:
                observer.on_notice(f"{diverged} The run goes back to step {step} and on with other noise.")


def run_in_folder(request: Request, resume: bool) -> dict[str, Any]:
    """Holds the run's folder, finds where to begin, and runs to the end; raises as `run`, and Diverged."""
    config, tasks = request.config, request.tasks
    folder = RunFolder(config, resume, request.allowed)
    try:
        checkpoint, refused = starting_point(config, folder.path, tasks, request.allowed) if resume else (None, ())
        (folder.path / SUMMARY).unlink(missing_ok=True)  # of an earlier end of the run
        first_step = 0 if checkpoint is None else checkpoint.step
        spooled, spool_refused = recover(folder.path, first_step, config_hash(config), config.learner.groups_per_step)
        counters = None if checkpoint is None else checkpoint.state["extra"]["books"]
        resumed = Resumed(spooled, counters, rolled_back_to(folder.path))
        record = RunRecord(
            config,
            config_hash(config),
            folder.path,
            first_step,
            len(tasks.train),
            len(tasks.held_out),
            refused,
            tasks.sources_only(),
        )
        with EventLog(folder.path / EVENTS) as events:
            reporter = Reporter(events, request.observers)
            # A process that was killed at once may have left no line.
            reporter.write(
                "resumed" if events.begun else "started",
                **began(record, tasks, folder.changed, request.allowed, resumed),
            )
            folder.keep(config)  # only now: a change that is not in the event log yet is told by the next process
            reporter.start(record)
            tell_data(reporter, tasks)
            for reason in spool_refused:
                reporter.announce("spool_refused", reason=reason)
            try:
                found = measured_training(request, record, reporter, resumed)
            except BaseException as error:
                reporter.write("failed", error=type(error).__name__, reason=str(error))
                raise
            write_whole(folder.path / SUMMARY, json.dumps(found, indent=2, allow_nan=False) + "\n")
            reporter.write("finished", step=config.learner.steps)
        reporter.end(found)
        return found
    finally:
        folder.close()


def measured_training(request: Request, record: RunRecord, reporter: Reporter, resumed: Resumed) -> dict[str, Any]:
    """Measures the base, trains, measures again and exports the adapter; the summary of it all."""
    config, phases = record.config, Phases()
    for alarm in made(AlarmMonitor, lambda: AlarmMonitor(reporter.announce, read_events(record.folder / EVENTS))):
        alarm.on_start(record)
        reporter.add(alarm)
    backend = make_backend(config, record.folder, reporter.announce, request.tasks.sources_only())
    progress = Progress(record.first_step, None if resumed.counters is None else record.first_step)
    active = ActiveRun(config, backend, reporter, record.train_tasks, record.held_out_tasks, progress, request.stopping)
    try:
        with phases.timed("total"):
            with phases.timed("start"):
                backend.start(record.first_step, request.allowed)
                publish(active)
            with phases.timed("base_evaluation"):
                base = evaluate(active, "base")
            with phases.timed("training"):
                trained = train(active, resumed)
            with phases.timed("final_evaluation"):
                final = evaluate(active, "final")
            origin = {"run": config.name, "step": progress.done, "base": config.editor.path}
            exported = backend.export(record.folder / ADAPTER, origin)
    finally:
        backend.close()
    return summary(record, request.tasks, trained, base, final, exported, {**phases.seconds, **trained.seconds})


def make_backend(config: RunConfig, folder: Path, notify: Notify, tasks: Tasks) -> Backend:
    """The backend that `cluster.mode` names; Ray is imported only when it is asked for."""
    if config.cluster.mode == "ray":
        from learner.backends.ray import RayBackend

        return RayBackend(config, folder, notify, tasks)
    from learner.backends.inline import InlineBackend

    return InlineBackend(config, folder, notify, tasks)


def tell_data(reporter: Reporter, tasks: Tasks) -> None:
    """Reports faulty lines and what else is remarkable about the data."""
    for key, lines in tasks.faults.items():
        if lines:
            reporter.announce(
                "data_faults", key=key, count=len(lines), first=grouped(lines.faults), command=lines.command
            )
    if tasks.remarks:
        reporter.announce("data_remarks", sentences=list(tasks.remarks))


def began(
    record: RunRecord, tasks: Tasks, changed: Sequence[str], allowed: Sequence[str], resumed: Resumed
) -> dict[str, Any]:
    """What the event log says of a process that begins, see `learner.state.event_types.Began`."""
    config = record.config
    return {
        "step": record.first_step,
        "locus_version": __version__,
        "config_hash": record.config_hash,
        "changed": list(changed),
        "allowed": list(allowed),
        "data": tasks.fingerprints,
        "code": code_fingerprint(config.own_modules),
        "seed": config.seed,
        "steps": config.learner.steps,
        "groups_per_step": config.learner.groups_per_step,
        "updates_per_step": config.learner.updates_per_step,
        "group_size": config.group_size,
        "min_valid": config.min_valid,
        "staleness": config.cluster.staleness,
        "publish_every": config.cluster.publish_every,
        "checkpoint_every": config.checkpoint.every,
        "evaluate_every": config.report.evaluate_every,
        "train_tasks": record.train_tasks,
        "held_out_tasks": record.held_out_tasks,
        "anew_from": resumed.anew_from,
        "refused_checkpoints": list(record.refused_checkpoints),
    }
