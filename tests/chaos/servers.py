"""Two judges and a shared score cache, as processes that can be killed and come back at the same address."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol

from tests.judges.processes import ScriptedProcess
from tests.rewards.cache.valkeys import free_port, shared_valkey

ANSWER_SECONDS = 0.03
"""Of a judge, so that a kill finds requests in flight."""


class Server(Protocol):
    def start(self) -> None: ...

    def kill(self) -> None: ...


class Cache:
    """A Valkey server on loopback without persistence."""

    def __init__(self) -> None:
        self._port, self._running = free_port(), ExitStack()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        self._running.enter_context(shared_valkey(self._port))

    def kill(self) -> None:
        self._running.close()


class Servers:
    """All of them, a context manager; `tend` restarts those whose downtime is over.

    A server stays away for its time and for two steps of the run, so that it is missed; a run that has to start again
    finds it there.
    """

    def __init__(self, folder: Path) -> None:
        self.judges = [ScriptedProcess(folder / f"judge-{number}.jsonl", f"slow:{ANSWER_SECONDS}") for number in (1, 2)]
        self.cache = Cache()
        self._away: dict[Server, tuple[float, int, int]] = {}

    def here(self) -> list[ScriptedProcess]:
        """The judges that are up."""
        return [judge for judge in self.judges if judge not in self._away]

    def cache_is_here(self) -> bool:
        return self.cache not in self._away

    def kill(self, server: Server, seconds: float, life: int, steps: int) -> None:
        """kill -9, for so many seconds; `life` and `steps` are those of the run so far."""
        server.kill()
        self._away[server] = time.monotonic() + seconds, life, steps

    def tend(self, life: int, steps: int) -> None:
        for server, (back, then, made) in list(self._away.items()):
            if life != then or (time.monotonic() > back and steps >= made + 2):
                server.start()
                del self._away[server]

    def __enter__(self) -> Servers:
        self.cache.start()
        for judge in self.judges:
            judge.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server in (self.cache, *self.judges):
            if server not in self._away:
                server.kill()
