"""SIGTERM and Ctrl-C: the run ends where it can be saved, if it gets there in time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

GRACE_SECONDS = 20.0
"""How long a run may take to get to such a place and to save. Kubernetes kills 30 s after SIGTERM, spot instances and
batch systems later; who kills sooner costs only the gradients since the last checkpoint, for the groups are spooled."""


class Terminated(KeyboardInterrupt):
    """Somebody asked this process to end (SIGTERM): wind up as for Ctrl-C."""


class Stopping:
    """Remembers that somebody asked this process to end.

    Outside `deferred` the request is raised at once, as KeyboardInterrupt or Terminated. Inside, whoever works there
    looks at `requested` at places where it can stop; a second request, or the end of the grace time, is raised at once.
    """

    def __init__(self) -> None:
        self.requested: KeyboardInterrupt | None = None
        self._deferring = False

    def install(self) -> None:
        """Takes over both signals of this process; main thread only."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._asked)
        signal.signal(signal.SIGALRM, self._late)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, requests wait for a good moment; what waited in vain is raised at the end."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
            if self.requested is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)
        if self.requested is not None:
            raise self.requested

    def _asked(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if again is not None or not self._deferring:
            raise self.requested
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        # Not print: a signal handler may interrupt a print.
        with suppress(OSError):  # whoever read this has been asked to end, too
            os.write(2, b"\nStopping: the steps so far are saved first. Once more to stop at once.\n")

    def _late(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise self.requested
