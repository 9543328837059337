"""Immediate detection that this process lost Ray: that the raylet, Ray's process on every node, has exited.

Otherwise Ray exits this process at its next access to a large object, with code 1 and no message.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

import psutil
import ray


class RayletMonitor:
    """Calls `lost`, in its own thread, as soon as this node's raylet exits. Linux only."""

    def __init__(self, lost: Callable[[], None]) -> None:
        """Start watching. Ray must be connected; if its raylet is not found, there is nothing to watch."""
        self._lost = lost
        self._closed, self._close = os.pipe()
        pid = raylet_of_this_process()
        self._thread = threading.Thread(target=self._watch, args=(pid,), name="raylet watch", daemon=True)
        if pid is not None and hasattr(os, "pidfd_open"):
            self._thread.start()

    def close(self) -> None:
        """Stop watching; Ray may be shut down afterwards."""
        os.close(self._close)
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._closed)

    def _watch(self, pid: int) -> None:
        try:
            raylet = os.pidfd_open(pid)
        except ProcessLookupError:
            self._lost()
            return
        ended = select.select([raylet, self._closed], [], [])[0]
        os.close(raylet)
        if self._closed not in ended:
            self._lost()


def raylet_of_this_process() -> int | None:
    """The pid of the raylet to which this process is connected, identified by its socket."""
    node = ray._private.worker.global_worker.node
    if node is None:
        return None
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "raylet" and any(
            argument.endswith(node.raylet_socket_name) for argument in process.info["cmdline"] or ()
        ):
            return int(process.pid)
    return None
