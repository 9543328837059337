"""The starting point of a resumed run, determined from its checkpoints and its event log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.commands import command
from configs.run_files import CONFIG, EVENTS
from configs.schema import RunConfig
from editing.data import Tasks
from learner.errors import RunRefused
from learner.state.checkpoint import Checkpoint, clear_unfinished, load_latest
from learner.state.event_log import read_events
from learner.state.event_record import EventError
from learner.state.training_state import refusal_of_another_run


def starting_point(
    config: RunConfig, folder: Path, tasks: Tasks, allowed: Sequence[str]
) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The checkpoint to go on from (None: the run ended before its first one), and why newer ones were passed over.

    Args:
        config: the present configuration.
        folder: of the run, which no other process uses.
        tasks: the present tasks.
        allowed: what may differ from the run so far, see `training_state.refusal_of_another_run`.

    Raises:
        RunRefused: when checkpoints are gone or cannot be trusted and none is left, the event log is gone, or the run
            was another one.
    """
    checkpoints = folder / "checkpoints"
    clear_unfinished(checkpoints)
    checkpoint, refused = load_latest(checkpoints)
    anew = f"train from the start, under the next free name: {command('learner.main', '--config', folder / CONFIG)}"
    try:
        saved = last_saved(read_events(folder / EVENTS))
    except EventError as error:
        raise RunRefused(f"--resume: {error}. Nothing was changed. Put a sound copy back, or {anew}") from error
    if checkpoint is None and refused:
        raise RunRefused(
            f"--resume: none of the checkpoints in {folder} can be trusted. {' '.join(refused)} Nothing "
            f"was changed. Put sound copies back, or {anew}"
        )
    if checkpoint is None:
        if saved is None:
            return None, ()
        raise RunRefused(
            f"--resume: the event log of {folder} says that step {saved} was saved, but {checkpoints} holds no "
            "checkpoint; the run would start over and overwrite what is there. Nothing was changed. Put the "
            f"checkpoints back, or {anew}"
        )
    if saved is None and checkpoint.step > 0:  # that of step 0 may be there before its line
        raise RunRefused(
            f"--resume: {checkpoint.path} is there, but the event log of {folder} has no checkpoint, so the "
            f"run's history is lost. Nothing was changed. Put {folder / EVENTS} back, or {anew}"
        )
    if saved is not None and saved > checkpoint.step and not refused:
        refused = (f"checkpoint {checkpoints / f'step_{saved:06d}'} is gone, which the event log says was saved.",)
    changed = refusal_of_another_run(checkpoint, config, tasks.fingerprints, allowed)
    if changed is not None:
        raise RunRefused(f"--resume: {changed}")
    if checkpoint.step > config.learner.steps:
        raise RunRefused(
            f"--resume: the run in {folder} is at step {checkpoint.step} already, learner.steps is "
            f"{config.learner.steps}; raise learner.steps"
        )
    return checkpoint, refused


def last_saved(events: Iterable[Mapping[str, Any]]) -> int | None:
    """The step of the newest checkpoint that there must be after these events; None when none was saved.

    A process that went back to an older checkpoint leaves the later ones behind.
    """
    saved = None
    for event in events:
        if event["event"] == "checkpoint" or (event["event"] in ("resumed", "rolled_back") and saved is not None):
            saved = event["step"]
    return saved
