"""Judge pools for tests: short times, and no task left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from configs.judges import JudgeConfig
from rewards.judge.images import encode_png
from rewards.judge.messages import JudgeRequest
from rewards.judge.pool import JudgePool

KEY = "canary-5f1c0e7a9b"
PNG = encode_png(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))


def request(text: str = "How good is the edit?", **fields: Any) -> JudgeRequest:
    """A small request with two images."""
    return JudgeRequest(**{"parts": (PNG, PNG, text), "max_tokens": 64, "temperature": 0.7, **fields})


def settings(**fields: Any) -> JudgeConfig:
    return JudgeConfig(**{"concurrency": 4, "deadline": 5.0, "patience": 20.0, **fields})


@asynccontextmanager
async def pool_of(urls: Sequence[str], start: bool = True, **fields: Any) -> AsyncIterator[JudgePool]:
    """A started pool; afterwards it is closed, and every task that it made has ended."""
    before = asyncio.all_tasks()
    pool = JudgePool("editscore", urls, "judge", settings(**fields), KEY)
    try:
        if start:
            await pool.start()
        yield pool
    finally:
        await pool.close()
        left = {task for task in asyncio.all_tasks() - before if not task.done()}
        assert not left, f"tasks left after close: {left}"


async def until(holds: Any, seconds: float = 20.0) -> None:
    """Waits for a condition.

    Raises:
        TimeoutError: when it does not come to hold.
    """
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)
