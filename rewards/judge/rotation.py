"""The servers in rotation, and the requests that wait for one of them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from rewards.judge.routing import Load, choose


class NoServer(Exception):
    """No server became available in time."""


S = TypeVar("S", bound=Load)


class Rotation(Generic[S]):
    """Hands out servers, the least busy first, and makes requests wait while all are full.

    Who waits how long: a request that was never sent waits as long as any server is in rotation, however long the
    queue (a busy judge is not broken). A request that is to be sent again goes in front of those, and waits
    until a time of its own. While no server is in rotation, all wait, until that has lasted `patience` seconds: then
    all of them, and every one that comes, get `NoServer` until a server is back.

    Belongs to one event loop; its clock is the loop's.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._servers: list[S] = []
        self._again: deque[asyncio.Future[S]] = deque()
        self._fresh: deque[asyncio.Future[S]] = deque()
        self._outage: asyncio.TimerHandle | None = None
        self._given_up = False
        self._turn = 0

    def __contains__(self, server: S) -> bool:
        return server in self._servers

    def __len__(self) -> int:
        return len(self._servers)

    async def take(self, until: float | None = None) -> S:
        """A server with room; `release` it afterwards.

        Args:
            until: for a request that was sent before, when to give up.

        Raises:
            NoServer: see above, and after `close`.
        """
        loop = asyncio.get_running_loop()
        queue = self._fresh if until is None else self._again
        if not queue and not self._again:
            server = choose(self._servers, loop.time())
            if server is not None:
                return self._occupy(server)
        if self._given_up:
            raise NoServer
        future: asyncio.Future[S] = loop.create_future()
        queue.append(future)
        timer = None if until is None else loop.call_at(until, _fail, future)
        self._dispatch()
        try:
            return await future
        except asyncio.CancelledError:
            # The server may have been handed over in the same moment in which the request was withdrawn.
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result())
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def release(self, server: S) -> None:
        """The server has answered, or failed to."""
        server.outstanding -= 1
        self._dispatch()

    def hold(self, server: S, seconds: float) -> None:
        """No request to the server for so long; it stays in rotation."""
        loop = asyncio.get_running_loop()
        server.held_until = max(server.held_until, loop.time() + seconds)
        loop.call_at(server.held_until, self._dispatch)

    def enter(self, server: S) -> None:
        if server not in self._servers:
            self._servers.append(server)
        self._given_up = False
        if self._outage is not None:
            self._outage.cancel()
            self._outage = None
        self._dispatch()

    def leave(self, server: S) -> None:
        """No request to the server until it enters again; those that it works on are not touched."""
        if server in self._servers:
            self._servers.remove(server)
            if not self._servers:
                self._outage = asyncio.get_running_loop().call_later(self._patience, self._give_up)

    def close(self) -> None:
        """All requests that wait get `NoServer`, and so does every later one."""
        self._servers.clear()
        if self._outage is not None:
            self._outage.cancel()
        self._give_up()

    def _give_up(self) -> None:
        self._given_up = True
        for queue in (self._again, self._fresh):
            while queue:
                _fail(queue.popleft())

    def _dispatch(self) -> None:
        while (queue := self._next()) is not None:
            server = choose(self._servers, asyncio.get_running_loop().time())
            if server is None:
                return
            queue.popleft().set_result(self._occupy(server))

    def _next(self) -> deque[asyncio.Future[S]] | None:
        """The queue whose first request is next; requests that were withdrawn meanwhile are dropped."""
        for queue in (self._again, self._fresh):
            while queue and queue[0].done():
                queue.popleft()
            if queue:
                return queue
        return None

    def _occupy(self, server: S) -> S:
        self._turn += 1
        server.turn = self._turn
        server.outstanding += 1
        return server


def _fail(future: asyncio.Future[S]) -> None:
    if not future.done():
        future.set_exception(NoServer())
