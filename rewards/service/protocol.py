"""Connections that do not hurry: uvicorn closes those that idle after an answer, but waits for ever for a request's
headers, or for the rest of a body that nobody reads any more. Here both have a limit."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_SECONDS = 15.0
"""From one answer (or the connection's start) until the next request's headers must be there."""
MAX_CONNECTIONS = 512
"""Open connections; further ones are closed at once, before they cost more of the process's files."""


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, for clients that may be slow on purpose."""

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        else:
            self._wait()

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
        self._overdue = self.loop.call_later(IDLE_SECONDS, self.transport.abort)

    def _wait_no_longer(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
