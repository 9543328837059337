"""An event loop in a thread of its own: there a reward pool waits for judges while this thread rolls out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")

CLOSING_SECONDS = 10.0


class PoolThread:
    """Runs coroutines until `close`."""

    def __init__(self) -> None:
        running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        # A daemon: a scorer of the user's own that never returns must not keep the process alive.
        self._thread = Thread(target=lambda: asyncio.run(_until_the_end(running)), name="reward pool", daemon=True)
        self._thread.start()
        self._loop, self._end = running.result()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts a coroutine; its result arrives in the future."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        """Gives up what still runs, and ends the thread unless it hangs."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(CLOSING_SECONDS)


async def _until_the_end(running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    end = asyncio.Event()
    running.set_result((asyncio.get_running_loop(), end))
    await end.wait()
