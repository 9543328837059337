"""Which server gets the next request. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Load(Protocol):
    """How busy a server in rotation is.

    Attributes:
        outstanding: requests that it works on.
        concurrency: how many it may work on.
        held_until: it asked for no request before this time.
        turn: grows with every request that any server got; this server's last.
    """

    outstanding: int
    concurrency: int
    held_until: float
    turn: int


S = TypeVar("S", bound=Load)


def choose(servers: Iterable[S], now: float) -> S | None:
    """The server with the fewest outstanding requests, among equals the one that waited longest; None if none has
    room or all are held."""
    open_ones = [server for server in servers if server.outstanding < server.concurrency and server.held_until <= now]
    return min(open_ones, key=lambda server: (server.outstanding, server.turn), default=None)
