"""ASGI middleware of a judge server: the few paths that a judge needs, and the key on all of them.

vLLM's own key guards only paths that begin with /v1 and a few more; /invocations, /tokenize, /pause and others stay
open (vllm-project/vllm, docs/usage/security.md).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

OPEN = {("GET", "/health")}
ALLOWED = OPEN | {("GET", "/metrics"), ("GET", "/v1/models"), ("POST", "/tokenize"), ("POST", "/v1/chat/completions")}


class AllowList:
    """404 for every other path, 401 without the key of VLLM_API_KEY where there is one."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode() if (key := os.environ.get("VLLM_API_KEY", "")) else b""

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        request = (scope.get("method", ""), scope["path"])
        if scope["type"] != "http" or request not in ALLOWED:
            return await _refuse(scope, send, 404, "this judge server does not serve this path")
        if self._expected and request not in OPEN and not self._has_key(scope):
            return await _refuse(scope, send, 401, "the key is missing or wrong")
        return await self._app(scope, receive, send)

    def _has_key(self, scope: Message) -> bool:
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        return len(given) == 1 and secrets.compare_digest(given[0], self._expected)


async def _refuse(scope: Message, send: Callable[[Message], Awaitable[None]], status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps({"error": {"message": why, "code": status}}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
