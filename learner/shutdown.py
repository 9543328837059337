"""Requests to stop (Ctrl-C, SIGTERM, SIGHUP, SIGUSR1): the run ends where it can be saved, if it gets there in time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from configs.exits import STOP_SIGNALS
from configs.output import takes_more

GRACE_SECONDS = 20.0
"""How long a run may take to get to such a place and to save. Kubernetes kills 30 s after SIGTERM, spot instances and
batch systems later; who kills sooner costs only the gradients since the last checkpoint, for the groups are spooled."""

AGAIN_SECONDS = 1.0
"""Requests within this are one: `timeout` sends its signal to the command and to its group, systemd sends SIGHUP after
SIGTERM, and the terminal that is closed and its shell send one SIGHUP each."""


class Terminated(KeyboardInterrupt):
    """A request to stop other than Ctrl-C, handled the same way."""


class Stopping:
    """Remembers a request to stop.

    Outside `deferred` the request is raised at once, as KeyboardInterrupt or Terminated. Inside, whoever works there
    looks at `requested` at places where it can stop; Ctrl-C or SIGTERM after an earlier request, or the end of the
    grace time, is raised at once.
    """

    def __init__(self) -> None:
        self.requested: KeyboardInterrupt | None = None
        self._requested_at = 0.0
        self._deferring = False

    def install(self) -> None:
        """Takes over the signals of this process; main thread only. A SIGHUP that is ignored stays so: `nohup`."""
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._asked)
        signal.signal(signal.SIGALRM, self._late)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, requests wait for a safe point; one that is still pending is raised at the end."""
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
        if self.requested is not None:
            if number in (signal.SIGINT, signal.SIGTERM) and time.monotonic() > self._requested_at + AGAIN_SECONDS:
                raise self.requested
            return
        self.requested = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
        self._requested_at = time.monotonic()
        if not self._deferring:
            raise self.requested
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
        # Not print: a signal handler may interrupt a print.
        with suppress(OSError):  # the reader was asked to end too, or has stopped reading
            if takes_more(2):
                os.write(2, b"\nStopping: the steps so far are saved first. Once more to stop at once.\n")

    def _late(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise self.requested
