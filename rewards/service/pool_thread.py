"""A reward pool in a thread with an event loop of its own, so that no scorer delays a response to /healthz."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Event
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from editing.task import EditTask
from locus.common.event_loop import EventLoopThread
from rewards.pool import RewardPool
from rewards.result import Score

STATISTICS_SECONDS = 2.0
"""A pool that is busy computing does not respond; after this long its last known numbers are reported."""
CLOSE_SECONDS = 10.0


class PoolThread:
    """A context manager that opens and starts the pool, and closes it again.

    Its coroutines may be awaited in any event loop; the pool itself lives in its own, as its connections demand.
    """

    def __init__(self, open_pool: Callable[[], RewardPool]) -> None:
        self._open_pool = open_pool
        self._numbers: Mapping[str, float] = {}

    def __enter__(self) -> PoolThread:
        self._thread = EventLoopThread("reward pool")
        try:
            self._thread.submit(self._open()).result()
        except BaseException:
            self._thread.close(CLOSE_SECONDS)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with suppress(TimeoutError):  # still computing: this thread and all that it began end with the process
                self._thread.submit(self._pool.close()).result(CLOSE_SECONDS)
        finally:
            self._thread.close(CLOSE_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether the pool can be asked anything."""
        return self._thread.alive

    def own_scorers(self) -> Mapping[str, bool]:
        """See `RewardPool.own_scorers`."""
        return self._pool.own_scorers()

    async def score_task(self, task: EditTask, images: NDArray[np.uint8]) -> Mapping[str, tuple[Score, ...]]:
        """See `RewardPool.score_task`. Cancelled, it cancels what the pool does for it, and ends when that has ended:
        until then the images are in memory, and count against the caller's budget."""
        given_up, scoring = Event(), list[asyncio.Task[Mapping[str, tuple[Score, ...]]]]()

        async def scored() -> Mapping[str, tuple[Score, ...]]:
            if given_up.is_set():
                raise asyncio.CancelledError
            scoring.append(asyncio.ensure_future(self._pool.score_task(task, images)))
            await asyncio.wait(scoring)
            return scoring[0].result()

        running = asyncio.wrap_future(self._thread.submit(scored()))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            given_up.set()
            self._thread.call(lambda: [one.cancel() for one in scoring])
            await asyncio.wait({running})
            raise

    async def statistics(self) -> Mapping[str, float]:
        """See `RewardPool.statistics`."""
        with suppress(TimeoutError):
            self._numbers = await asyncio.wait_for(
                asyncio.wrap_future(self._thread.submit(self._pool.statistics())), STATISTICS_SECONDS
            )
        return self._numbers

    async def _open(self) -> None:
        self._pool = self._open_pool()
        await self._pool.start()
        self._numbers = await self._pool.statistics()
