"""Serves the application on a socket until the process is asked to end."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from rewards.service.protocol import TimedProtocol

GRACE_SECONDS = 30
"""How long requests that are being scored may still take once the process was asked to end."""


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, announcement: str) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self._announcement, flush=True)


def make_server(app: ASGIApp, announcement: str) -> uvicorn.Server:
    """A server whose `run(sockets=[...])` returns when it was asked to end and all responses are sent.

    SIGINT and SIGTERM are passed on to the handlers that were there before, when everything has ended.
    """
    return _Server(
        uvicorn.Config(
            app,
            http=TimedProtocol,
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,  # nothing of a request is logged
            proxy_headers=False,  # no header may say who the client is
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        ),
        announcement,
    )
