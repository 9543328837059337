"""Awaiting work in threads, cancelled or not, until it has really ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(threads: Executor, work: Callable[..., T], *arguments: Any) -> T:
    """What the work returns. Cancelled, it ends no earlier than the thread does, which cannot be stopped: until then
    what the work holds is in memory, and counts against the caller's budgets."""
    running = threads.submit(work, *arguments)
    try:
        return await asyncio.wrap_future(running)
    except asyncio.CancelledError:
        if not running.cancel():
            await asyncio.gather(asyncio.wrap_future(running), return_exceptions=True)
        raise
