"""A server and the thread that waits for it; the owner gets callbacks only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rewards.vllm.merge import MergeError
from rewards.vllm.replicas import Served
from rewards.vllm.server import ServerFailed, VllmServer


class Attended:
    """Makes and starts a server. From its thread it calls `ready` when the server has responded to a test image, and
    `lost(reason)` once, when nothing of the server is left, whether it was ready or not. See
    `rewards.vllm.replicas.Launched`.
    """

    def __init__(
        self, make: Callable[[], VllmServer], ready: Callable[[Served], None], lost: Callable[[str], None]
    ) -> None:
        """`make` may take long: it merges."""
        self._make, self._ready, self._lost = make, ready, lost
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="judge server", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Ends the server without waiting."""
        self._given_up.set()

    def join(self) -> None:
        """Returns when nothing of the server is left."""
        self._thread.join()

    def _run(self) -> None:
        reason = "a fault of the program; its traceback is in the output of the process that started it"
        try:
            reason = self._attend()
        except (ServerFailed, MergeError, ValueError, OSError) as error:
            reason = str(error)
        finally:
            self._lost(reason)

    def _attend(self) -> str:
        start = time.monotonic()
        server = self._make()
        if self._given_up.is_set():
            return "it was given up"
        server.start()
        stopper = threading.Thread(target=self._stop_when_given_up, args=(server,), daemon=True)
        stopper.start()
        try:
            server.wait()
            self._ready(Served(server.url, server.pid, time.monotonic() - start))
            server.ended.wait()
            return server.reason
        finally:
            self.end()
            stopper.join()

    def _stop_when_given_up(self, server: VllmServer) -> None:
        self._given_up.wait()
        server.stop()
