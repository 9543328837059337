"""An event loop in a thread of its own, where coroutines run while the caller's thread does other work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")

CLOSING_SECONDS = 10.0


class EventLoopThread:
    """Runs coroutines until `close`. All of them share one loop, as connections demand."""

    def __init__(self, name: str) -> None:
        """Returns when the loop runs. `name` is the thread's, to be seen in a process that hangs."""
        running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        # A daemon: a coroutine that never gives way, such as a user's own scorer, must not keep the process alive.
        self._thread = Thread(target=lambda: asyncio.run(_until_the_end(running)), name=name, daemon=True)
        self._thread.start()
        self._loop, self._end = running.result()

    @property
    def alive(self) -> bool:
        """Whether coroutines can still be submitted."""
        return self._thread.is_alive()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine; its result arrives in the future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the loop, soon."""
        self._loop.call_soon_threadsafe(function)

    def close(self, seconds: float = CLOSING_SECONDS) -> None:
        """Cancel what still runs and end the thread, unless it hangs for longer than so many seconds."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(seconds)


async def _until_the_end(running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    end = asyncio.Event()
    running.set_result((asyncio.get_running_loop(), end))
    await end.wait()
