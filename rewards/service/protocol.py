"""Timeouts for slow connections: uvicorn closes those that idle after a response, but waits indefinitely for a
request's headers, or for the rest of a body that is no longer read. Here both have a deadline."""

from __future__ import annotations

import asyncio
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_SECONDS = 15.0
"""From one response (or the connection's start) until the next request's headers must be there."""
MAX_CONNECTIONS = 512
"""Open connections. For a further one, one that waits for headers is closed; where none does, the new one."""


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with deadlines for slow clients."""

    _overdue: asyncio.TimerHandle | None = None

    @property
    def _host(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def _deadline(self) -> float:
        return 0.0 if self._overdue is None else self._overdue.when()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > MAX_CONNECTIONS:
            self._least_wanted()._drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_longer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_longer()  # the application has the request now, and its own limits

    def on_response_complete(self) -> None:
        super().on_response_complete()  # may begin with the next request, if that was sent along
        if self.cycle.response_complete:
            self._wait()

    def _wait(self) -> None:
        self._wait_no_longer()
        self._overdue = self.loop.call_later(IDLE_SECONDS, self._drop)

    def _drop(self) -> None:
        self._wait_no_longer()
        self.transport.abort()

    def _least_wanted(self) -> TimedProtocol:
        """Of the client with the most connections that wait for headers, the one that has waited for the longest: so a
        client that opens many connections and sends nothing does not keep out others."""
        waiting = [
            one
            for one in self.connections
            if isinstance(one, TimedProtocol) and one is not self and one._overdue is not None
        ]
        clients = Counter(one._host for one in waiting)
        return max(waiting, key=lambda one: (clients[one._host], -one._deadline), default=self)

    def _wait_no_longer(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
