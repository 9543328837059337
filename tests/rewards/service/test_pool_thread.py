"""Tests of rewards.service.pool_thread: the pool has a loop of its own, whatever it does there."""

import asyncio
import threading
import time

import pytest

from rewards.result import Score
from rewards.service import pool_thread
from rewards.service.pool_thread import PoolThread


class Pool:
    """What PoolThread uses of a reward pool."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.cancelled = self.closed = False
        self.begun, self.busy = threading.Event(), threading.Event()
        self.responses = 0

    def _seen(self) -> None:
        self.threads.add(threading.get_ident())

    async def start(self):
        self._seen()

    async def score_task(self, task, images):
        self._seen()
        self.begun.set()
        if task == "compute":
            self.busy.wait(30)  # as a scorer that computes in the loop
            return {"c": (Score(value=1.0),)}
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def statistics(self):
        self._seen()
        self.responses += 1
        return {"responses": float(self.responses)}

    async def close(self):
        self._seen()
        self.closed = True


def test_everything_of_the_pool_happens_in_one_other_thread():
    pool = Pool()
    pool.busy.set()
    with PoolThread(lambda: pool) as opened:
        assert asyncio.run(opened.score_task("compute", None)) == {"c": (Score(value=1.0),)}
        assert asyncio.run(opened.statistics()) == {"responses": 2.0}
    assert pool.closed and len(pool.threads) == 1 and threading.get_ident() not in pool.threads
    assert not any(thread.name == "reward pool" for thread in threading.enumerate())


def test_who_gives_up_cancels_the_work():
    pool = Pool()

    async def hurried() -> None:
        scoring = asyncio.create_task(opened.score_task("wait", None))
        assert await asyncio.to_thread(pool.begun.wait, 30)
        scoring.cancel()
        await scoring

    with PoolThread(lambda: pool) as opened, pytest.raises(asyncio.CancelledError):
        asyncio.run(hurried())
    assert pool.cancelled


def test_who_gives_up_has_the_images_in_his_budget_until_the_pool_is_done_with_them():
    pool = Pool()

    async def hurried() -> bool:
        scoring = asyncio.create_task(opened.score_task("compute", None))
        assert await asyncio.to_thread(pool.begun.wait, 30)
        later = asyncio.create_task(opened.score_task("wait", None))
        await asyncio.sleep(0)
        for one in (scoring, later):
            one.cancel()
        await asyncio.sleep(0.2)
        still = not scoring.done()
        pool.busy.set()
        await asyncio.wait([scoring, later])
        return still and scoring.cancelled() and later.cancelled()

    with PoolThread(lambda: pool) as opened:
        assert asyncio.run(hurried())


def test_a_pool_that_computes_tells_its_last_numbers(monkeypatch):
    monkeypatch.setattr(pool_thread, "STATISTICS_SECONDS", 0.1)
    pool = Pool()

    async def both() -> None:
        scoring = asyncio.create_task(opened.score_task("compute", None))
        assert await asyncio.to_thread(pool.begun.wait, 30)
        assert await opened.statistics() == {"responses": 1.0}  # of the start
        monkeypatch.setattr(pool_thread, "STATISTICS_SECONDS", 20.0)
        pool.busy.set()
        await scoring
        assert (await opened.statistics())["responses"] > 1.0

    with PoolThread(lambda: pool) as opened:
        asyncio.run(both())


@pytest.mark.parametrize("where", ["open", "start"])
def test_a_pool_that_cannot_be_opened_is_an_error_and_no_thread(where):
    class Broken(Pool):
        async def start(self):
            raise ValueError("start")

    def opened():
        if where == "open":
            raise ValueError("open")
        return Broken()

    with pytest.raises(ValueError, match=where), PoolThread(opened):
        pass
    assert not any(thread.name == "reward pool" for thread in threading.enumerate())


def test_closing_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(pool_thread, "CLOSE_SECONDS", 0.2)
    pool = Pool()
    start = time.monotonic()
    with PoolThread(lambda: pool) as opened:
        opened._thread.submit(pool.score_task("compute", None))
    assert time.monotonic() - start < 20 and not pool.closed
    pool.busy.set()
