"""Saving of checkpoints, also when the disk refuses them or the run is cut short."""

from __future__ import annotations

from pathlib import Path

from configs.text import counted
from learner.backends.base import Unsaved
from learner.errors import RunFailed
from learner.scheduling.active_run import ActiveRun

MAX_DISK_FAILURES = 3
"""Checkpoints, or steps with a group that could not be spooled, in a row. A disk that was briefly full is free again by
the next step; one that is full three times in a row stays so, and the longer the run goes on, the more work hangs on a
checkpoint that is ever older."""


def save(run: ActiveRun, last: bool = False) -> None:
    """Saves a checkpoint; if the disk refuses it, says so: it is due again after the next step.

    Raises:
        RunFailed: when there is no next step, or the disk has refused `MAX_DISK_FAILURES` times in a row.
    """
    outcome, progress = _checkpoint(run), run.progress
    if isinstance(outcome, Path):
        return
    progress.due, progress.not_saved = True, progress.not_saved + 1
    run.reporter.announce("not_saved", step=progress.done, reason=outcome.reason)
    if last or progress.not_saved >= MAX_DISK_FAILURES:
        raise RunFailed(
            f"The disk has refused a checkpoint {counted(progress.not_saved, 'time')} in a row: {outcome.reason}. "
            "Make room, and continue with --resume."
        )


def save_unfinished(run: ActiveRun) -> str:
    """Saves what is done and not saved yet; a sentence on it. Groups of the step that was cut short are spooled."""
    progress = run.progress
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in progress.counters.items())
    told = f"Groups so far: {counts}."
    if progress.saved == progress.done:
        return f"The run is saved up to its last step, {progress.done}; continue it with --resume. {told}"
    try:
        outcome = _checkpoint(run)
    except RunFailed as error:
        outcome = Unsaved(str(error))
    if isinstance(outcome, Unsaved):
        before = "There is no checkpoint." if progress.saved is None else f"The last one is of step {progress.saved}."
        return f"The {progress.done} steps so far could not be saved either: {outcome.reason}. {before} {told}"
    return f"The run is saved up to step {progress.done} in {outcome}; continue it with --resume. {told}"


def _checkpoint(run: ActiveRun) -> Path | Unsaved:
    progress = run.progress
    # The key is as old as the format of checkpoints.
    outcome = run.backend.save({"books": dict(progress.counters)})
    if isinstance(outcome, Path):
        progress.saved, progress.due, progress.not_saved = progress.done, False, 0
        run.reporter.write("checkpoint", step=progress.done, path=outcome.name)
    return outcome
