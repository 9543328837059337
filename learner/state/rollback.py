"""Rollback, once, to before gradients stopped being finite (fault F20 of the reliability table).

Weights that have grown until some gradient overflows do not come back by themselves: steps are skipped, one after the
other. The run then continues from the last checkpoint before that, with other noise; a second time it stops.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from configs.run_files import EVENTS
from learner.errors import RunFailed
from learner.state.checkpoint import discard_after, load_latest
from learner.state.event_log import EventLog
from learner.state.spool import FOLDER
from locus.common.files import write_whole

MAX_SKIPPED_STEPS = 5
"""A run that skips this many steps in a row is broken."""
ROLLED_BACK = "rolled_back.json"


class Diverged(RunFailed):
    """Too many steps in a row had no finite gradient, or the policy makes latents that are not finite."""


def rolled_back_to(run_folder: Path) -> int | None:
    """The step that the run went back to; None when it never did."""
    path = run_folder / ROLLED_BACK
    return json.loads(path.read_text(encoding="utf-8"))["step"] if path.exists() else None


def roll_back(run_folder: Path, diverged: Diverged) -> int:
    """Makes the newest checkpoint before the trouble the newest of all, and returns its step.

    What came after it is removed, the spool with it: taken again, its groups would lead to the same end.

    Args:
        run_folder: of a run that no process uses.
        diverged: why.

    Raises:
        Diverged: when the run went back before, or has no such checkpoint.
    """
    before = rolled_back_to(run_folder)
    if before is not None:
        raise Diverged(f"{diverged} The run went back once already, to step {before}.") from diverged
    folder = run_folder / "checkpoints"
    checkpoint, _ = load_latest(folder)
    while checkpoint is not None and checkpoint.state["learner"]["skipped_in_a_row"]:
        discard_after(folder, checkpoint.step - 1)
        checkpoint, _ = load_latest(folder)
    if checkpoint is None:
        raise Diverged(f"{diverged} There is no checkpoint from before to go back to.") from diverged
    discard_after(folder, checkpoint.step)
    with EventLog(run_folder / EVENTS) as events:
        events.write("rolled_back", step=checkpoint.step, reason=str(diverged))
    # Written before the spool goes: without it, a killed process would take the same groups again.
    write_whole(run_folder / ROLLED_BACK, json.dumps({"step": checkpoint.step, "reason": str(diverged)}) + "\n")
    shutil.rmtree(run_folder / FOLDER, ignore_errors=True)
    return checkpoint.step
