"""An event loop in a thread of its own."""

import asyncio
import threading

import pytest

from locus.common.event_loop import EventLoopThread


async def value(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def failing() -> None:
    raise KeyError("no")


def test_results_and_errors_arrive():
    thread = EventLoopThread("waiting")
    assert thread.submit(value(3)).result(20) == 3
    with pytest.raises(KeyError, match="no"):
        thread.submit(failing()).result(20)
    thread.close()


def test_all_coroutines_share_one_loop():
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    thread = EventLoopThread("waiting")
    assert thread.submit(loop()).result(20) is thread.submit(loop()).result(20)
    thread.close()


def test_closing_gives_up_what_still_waits_and_leaves_no_thread():
    ended = []

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    before = threading.active_count()
    thread = EventLoopThread("waiting")
    waiting = thread.submit(forever())
    assert thread.submit(value(1)).result(20) == 1 and not waiting.done()
    assert thread.alive
    thread.close()
    assert not thread.alive and ended == [True] and waiting.cancelled()
    assert threading.active_count() <= before  # one of another test may end in between
