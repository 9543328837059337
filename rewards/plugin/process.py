"""One process that runs a user's scorer, from the side of the reward pool."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import wait
from threading import Event, Lock, Timer
from typing import Any

from rewards.plugin import wire
from rewards.result import Score
from rewards.scorer_api import ScoreInput

LOAD_SECONDS = 900.0
"""Within which the user's module must have been imported, with all that it loads meanwhile."""
LOOK_SECONDS = 0.2  # how soon the end of the process is noticed where a child of its own keeps its socket open
CLOSE_SECONDS, CLOSE_LOOK_SECONDS = 1.0, 0.01
# The modules that this process finds, it finds too: those of the user and ours, in the same order.
_COMMAND = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from rewards.plugin.child import main; main(int(sys.argv[2]))"
)


class ScorerError(ValueError):
    """A user's scorer cannot be loaded; the sentence names its key and says why."""


class ScorerLost(RuntimeError):
    """The process of a scorer has ended, or was ended since it took too long; says which, without the scorer's name."""


class ScorerProcess:
    """A process that has loaded a scorer. Used by one thread at a time."""

    def __init__(self, name: str, dotted: str, closing: Event) -> None:
        """Starts the process and waits until it has loaded the function.

        Args:
            name: the component.
            dotted: `package.module:function`.
            closing: when it is set, whatever waits for the process gives up and ends it.

        Raises:
            ScorerError: when there is no such function.
            ScorerLost: when the process did not get so far.
        """
        self._closing, self._ending = closing, Lock()
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _COMMAND, json.dumps(sys.path), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # Ctrl-C is for the run, and all that the user's code starts is ended with it
        response = self._exchange(
            {"name": name, "dotted": dotted}, {}, LOAD_SECONDS, "was not imported within {seconds:g} s"
        )
        if response["error"] is not None:
            self.close()
            raise ScorerError(response["error"])

    @property
    def alive(self) -> bool:
        """Whether the process is there. One that has ended is left to be waited for, so that its number stays its own
        until what it has started is ended too."""
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:  # waited for already
            return False

    def ask(self, given: ScoreInput, deadline: float) -> tuple[Score, ...]:
        """One score per candidate; the process is ended when it takes longer than `deadline` seconds.

        Raises:
            ScorerLost: when the process gave none.
        """
        return wire.to_scores(
            self._exchange(
                *wire.of_input(given), deadline, "gave no scores within {seconds:g} s (rewards.scorer_deadline)"
            )
        )

    def close(self) -> None:
        """Ends the process and all that it has started."""
        self._connection.close()  # asks it to end itself
        end = time.monotonic() + CLOSE_SECONDS
        while self.alive and time.monotonic() < end:
            time.sleep(CLOSE_LOOK_SECONDS)
        self._kill()

    def _exchange(
        self, message: Mapping[str, Any], arrays: wire.Arrays, seconds: float, overdue: str
    ) -> dict[str, Any]:
        late = Event()

        def end() -> None:
            late.set()
            self._kill()

        timer = Timer(seconds, end)  # ends whatever this thread waits for below
        timer.daemon = True
        timer.start()
        try:
            wire.send(self._connection, message, arrays)
            while not wait([self._connection], LOOK_SECONDS):
                if self._closing.is_set() or not (self.alive or wait([self._connection], 0)):
                    raise EOFError
            response, _ = wire.receive(self._connection)
        except (EOFError, OSError):
            self._kill()
            self._connection.close()
            if late.is_set():
                raise ScorerLost(f"{overdue.format(seconds=seconds)}, so its process was ended") from None
            raise ScorerLost(
                "the reward pool is closed" if self._closing.is_set() else f"its process {_end(self._process.wait())}"
            ) from None
        finally:
            timer.cancel()
        return response

    def _kill(self) -> None:
        """Ends what is left of the session: where the process has ended by itself, what it has started."""
        with self._ending:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()


def _end(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed; is there enough memory?"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code} before it had responded"
