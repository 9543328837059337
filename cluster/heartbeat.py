"""Whether the driver whose name is in a run's lock works on another machine, where the kernel's lock may not reach.

It touches the file every few seconds (`learner.state.run_lock`); clocks of two machines are never compared.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

TOUCH_SECONDS = 10.0
LOOK_SECONDS = 1.0
WAIT_SECONDS = 45.0
"""For a sign of life of another machine: some touches, one of which may be late on a slow disk."""


def is_elsewhere(holder: str) -> bool:
    """Whether a lock's line ("pid 7 on host") names another machine."""
    return bool(holder) and holder.rpartition(" on ")[2] != socket.gethostname()


def is_touched(lock: Path) -> bool:
    """Whether the file changes while we look, for up to WAIT_SECONDS."""
    before, deadline = touched_at(lock), time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        if touched_at(lock) != before:
            return True
    return False


def touched_at(lock: Path) -> int:
    """When the file was last touched. Opened anew: network file systems answer from memory otherwise."""
    with lock.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns
