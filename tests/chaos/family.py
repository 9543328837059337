"""Every process that the soak started, also those whose parents were killed."""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress

import psutil

PR_SET_CHILD_SUBREAPER = 36  # <sys/prctl.h>


def adopt_orphans() -> None:
    """From now on a process whose parent dies becomes a child of this one, so that none is lost."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def living() -> list[psutil.Process]:
    """All descendants; adopted ones that have ended are reaped."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
            elif one.ppid() == os.getpid():
                with suppress(ChildProcessError):
                    os.waitpid(one.pid, os.WNOHANG)
    return found


def left_over(seconds: float) -> list[str]:
    """Descriptions of the descendants that have not ended after so long; they are killed then."""
    deadline = time.monotonic() + seconds
    while (left := living()) and time.monotonic() < deadline:
        time.sleep(0.2)
    told = []
    for one in left:
        with suppress(psutil.NoSuchProcess):
            told.append(f"{one.pid} {' '.join(one.cmdline())[:200]}")
            one.kill()
    return told
