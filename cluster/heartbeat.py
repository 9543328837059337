"""Heartbeat of a run's lock holder on another machine, where the kernel's lock may have no effect.

The driver touches the lock file every few seconds (`learner.state.run_lock`); the clocks of two machines are never
compared.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

TOUCH_SECONDS = 10.0
LOOK_SECONDS = 1.0
WAIT_SECONDS = 45.0
"""Timeout for a heartbeat of another machine: several touches, one of which may be late on a slow disk."""


def is_elsewhere(holder: str) -> bool:
    """Whether a lock's content ("pid 7 on host") names another machine."""
    return bool(holder) and holder.rpartition(" on ")[2] != socket.gethostname()


def is_touched(lock: Path) -> bool:
    """Whether the file is touched within WAIT_SECONDS from now."""
    before, deadline = touched_at(lock), time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        if touched_at(lock) != before:
            return True
    return False


def touched_at(lock: Path) -> int:
    """When the file was last touched; reopened each time, since network file systems cache the attributes."""
    with lock.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns
