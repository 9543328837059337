"""Admission of requests, and budgets that admitted ones share."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from weakref import WeakValueDictionary

from rewards.service.refusal import Refusal


class Admission:
    """Slots for requests that are worked on or wait; a request that finds none is refused, with a time to retry."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.taken = 0
        self._typical = 1.0  # seconds that a request stays, a moving average

    @property
    def retry_after(self) -> int:
        """Whole seconds, 1 to 60, after which a slot is likely free."""
        return min(60, max(1, math.ceil(self._typical)))

    @contextmanager
    def slot(self) -> Iterator[None]:
        """A slot for as long as the context lasts.

        Raises:
            Refusal: 429 when all are taken.
        """
        if self.taken >= self.slots:
            raise Refusal(
                429,
                f"All {self.slots} slots of the queue are taken; try again in {self.retry_after} s.",
                self.retry_after,
            )
        self.taken += 1
        start = monotonic()
        try:
            yield
        finally:
            self.taken -= 1
            self._typical += 0.2 * (monotonic() - start - self._typical)


class Budget:
    """An amount of something (bytes, pixels) that all requests share, first come, first served."""

    def __init__(self, capacity: int) -> None:
        self.capacity = self._free = capacity
        self._turn = asyncio.Lock()  # fair: a large request is not overtaken indefinitely by small ones
        self._returned = asyncio.Event()

    @asynccontextmanager
    async def hold(self, amount: int) -> AsyncIterator[None]:
        """Waits until `amount` is free and holds it for as long as the context lasts.

        Raises:
            ValueError: more than there is at all.
        """
        if amount > self.capacity:
            raise ValueError(f"{amount} is more than the whole budget of {self.capacity}")
        async with self._turn:
            while self._free < amount:
                self._returned.clear()
                await self._returned.wait()
            self._free -= amount
        try:
            yield
        finally:
            self._free += amount
            self._returned.set()


class Shares:
    """A budget of which one client holds at most a part, so that it cannot starve the others."""

    def __init__(self, capacity: int, part: int) -> None:
        self._all, self._part = Budget(capacity), part
        self._clients: WeakValueDictionary[str, Budget] = WeakValueDictionary()  # those that hold or wait for something

    @asynccontextmanager
    async def hold(self, client: str, amount: int) -> AsyncIterator[None]:
        """Waits until `amount` is free for this client, and holds it for as long as the context lasts.

        Raises:
            ValueError: more than a client's part.
        """
        own = self._clients.setdefault(client, Budget(self._part))
        async with own.hold(amount), self._all.hold(amount):
            yield
