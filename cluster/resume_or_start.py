"""`python -m cluster.resume_or_start -- FLAGS`: the training command, with --resume exactly if there is a checkpoint.

An idempotent job command for whatever may submit it more than once: `python -m cluster.supervise`, a Kubernetes RayJob
with a backoffLimit, a scheduler. Whether a checkpoint exists is only known where the run's folder is, hence here and
not where jobs are submitted.
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from cluster import heartbeat
from cluster.heartbeat import is_elsewhere, is_touched
from configs import exits
from configs.errors import ConfigError
from configs.load import parse_command_line
from configs.output import protect_output
from configs.run_files import EVENTS, LOCK


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process with the training command; return an exit code for --help, or if that is impossible."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    flags = arguments[1:] if arguments[:1] == ["--"] else arguments
    if {"-h", "--help"} & set(flags):
        print(__doc__)
        print("For FLAGS see `python -m learner.main --help`.")
        return exits.DONE
    try:
        config = parse_command_line(flags).config
    except ConfigError as error:
        print(error, file=sys.stderr)
        return exits.WRONG_REQUEST
    folder = Path(config.folder) / config.name
    progress = has_checkpoint(folder) or had_checkpoint(folder)
    # If there is progress, `learner.main` waits for the heartbeat itself.
    if is_held(folder) or (not progress and is_held_elsewhere(folder)):
        print(f"{folder} is in use by another attempt of this run, which is still running.", file=sys.stderr)
        return exits.RESUMABLE
    command = [sys.executable, "-m", "learner.main", *flags, "--name", config.name]
    if progress:
        command.append("--resume")
    elif folder.exists() and any(folder.iterdir()):
        print(f"{folder} has no checkpoint; its contents move to {set_aside(folder)}, and the run starts.", flush=True)
    os.execv(sys.executable, command)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run's folder holds a checkpoint; `learner.main --resume` verifies it."""
    return any(folder.glob("checkpoints/step_*"))


def had_checkpoint(folder: Path) -> bool:
    """Whether the event log records a checkpoint; `learner.main --resume` refuses a run that has lost them all."""
    try:
        with (folder / EVENTS).open("rb") as events:
            return any(b'"event": "checkpoint"' in line for line in events)  # as `learner.state.event_log` writes it
    except FileNotFoundError:
        return False
    except OSError:
        return True  # reported by `learner.main`


def is_held(folder: Path) -> bool:
    """Whether a process holds the run's lock, as far as this machine can tell; see `learner.state.run_lock`."""
    try:
        with (folder / LOCK).open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks, reported by `learner.main`
    return False


def is_held_elsewhere(folder: Path) -> bool:
    """Whether the lock names another machine whose heartbeat arrives in time."""
    lock = folder / LOCK
    holder = lock.read_text(encoding="utf-8").strip() if lock.exists() else ""
    if not is_elsewhere(holder):
        return False
    print(f"{folder} was held by {holder}; waiting {heartbeat.WAIT_SECONDS:g} s for its heartbeat.", flush=True)
    return is_touched(lock)


def set_aside(folder: Path) -> Path:
    """Rename the folder of a run without a checkpoint, so that nothing is lost; return its new path."""
    free = next(path for number in count(1) if not (path := folder.with_name(f"{folder.name}.aside-{number}")).exists())
    return folder.rename(free)


if __name__ == "__main__":
    protect_output(always=True)
    sys.exit(main())
