"""The lock on a run's folder: one driver at a time, on one machine or on several that share the disk.

On one machine the kernel's lock on the file `.lock` decides: it is let go when the process ends, however it ends.
Network file systems hand such locks on to other machines, refuse them, or silently keep them local to the machine. For
the last kind the holder touches the file every few seconds: who gets the lock, but finds another machine's name in it,
waits to see whether it is touched.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

from cluster import heartbeat
from configs.run_files import LOCK
from learner.errors import RunFailed, RunInUse
from learner.log import warn


class RunLock:
    """Holds a folder until `close`."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            RunInUse: when another process holds it.
            RunFailed: when the file system has no locks.
        """
        self._path = folder / LOCK
        self._closed = threading.Event()
        self._file = self._path.open("a+", encoding="utf-8")
        try:
            self._take()
        except BaseException:
            self._file.close()
            raise
        # A daemon: it must not keep a process alive that has forgotten to close.
        threading.Thread(target=self._touch, name="run lock", daemon=True).start()

    def _take(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._in_use() from None
        except OSError as error:
            raise RunFailed(
                f"{self._path.parent} is on a file system without locks ({error.strerror}), so it "
                "cannot be known whether another process uses it; mount it with locks (NFS 4, or Lustre with -o "
                "flock), or give --folder another place"
            ) from error
        holder = self._holder()
        if heartbeat.is_elsewhere(holder):
            warn(
                "waiting_for_sign_of_life", folder=str(self._path.parent), holder=holder, seconds=heartbeat.WAIT_SECONDS
            )
            if heartbeat.is_touched(self._path):
                raise self._in_use()
        self._file.truncate(0)
        self._file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def _holder(self) -> str:
        self._file.seek(0)
        return self._file.read().strip()

    def _in_use(self) -> RunInUse:
        return RunInUse(
            f"{self._path.parent} is in use by another process ({self._holder() or 'unknown'}); wait for it or end it"
        )

    def _touch(self) -> None:
        while not self._closed.wait(heartbeat.TOUCH_SECONDS):
            with suppress(OSError):  # a disk that is briefly unavailable must not end a run
                os.utime(self._path)

    def close(self) -> None:
        """Lets another process take the folder, without waiting for a heartbeat."""
        self._closed.set()
        with suppress(OSError):
            self._file.truncate(0)
        self._file.close()
