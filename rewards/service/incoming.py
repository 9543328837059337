"""Request bodies with a deadline, whether they are read or discarded."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Send

from rewards.service.refusal import Refusal

PATIENCE_SECONDS = 5.0
"""Within which a body's first piece must have arrived; then, from its turn to be read on, all of it, where every piece
that arrives gives it the time of `SLOWEST` more."""
SLOWEST = 2**20
"""Bytes a second."""
FIRST_PIECE = 2**16
"""Bytes of a body, or all of a shorter one, that must be there before the request gets a slot and memory: a client that
announces much and sends nothing holds nothing but a connection."""
THROWN_AWAY = 4
"""How many bodies of the largest size are read of one that was refused. Where a connection is closed while data comes
in, its client sees a reset and not the sentence that says why."""


class Incoming:
    """A request body that is being received, with a deadline."""

    def __init__(self, request: Request) -> None:
        self._pieces, self._body = request.stream(), bytearray()

    async def first(self, length: int) -> None:
        """Waits for so many bytes, or for all of the body if it is shorter.

        Raises:
            Refusal: 408 when they do not arrive in time.
        """
        await self._read(length, 0)

    async def whole(self) -> bytearray:
        """The body, which is kept nowhere else: it is released with its budget.

        Raises:
            Refusal: 408 when it does not arrive in time.
        """
        await self._read(None, 1 / SLOWEST)
        body, self._body = self._body, bytearray()
        return body

    async def _read(self, length: int | None, seconds_per_byte: float) -> None:
        start, before = asyncio.get_running_loop().time(), len(self._body)
        try:
            async with asyncio.timeout_at(start + PATIENCE_SECONDS) as limit:
                while length is None or len(self._body) < length:
                    piece = await anext(self._pieces, None)
                    if piece is None:
                        return
                    self._body += piece
                    limit.reschedule(start + PATIENCE_SECONDS + (len(self._body) - before) * seconds_per_byte)
        except TimeoutError:
            raise Refusal(
                408,
                f"The body must arrive within {PATIENCE_SECONDS:g} s and at {SLOWEST:,} bytes/s or more; after "
                f"{len(self._body):,} bytes there was still no end.",
            ) from None


class Refusable:
    """A request whose response may be given before its body is read: the rest is then read and thrown away, by the same
    clock, and the connection closed. Use `receive` and `send` in the place of those that it is made of."""

    def __init__(self, headers: Headers, receive: Receive, send: Send, max_body: int) -> None:
        self._receive, self._send, self._left = receive, send, THROWN_AWAY * max_body
        self._ended = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers

    async def receive(self) -> Message:
        message = await self._receive()
        self._ended = self._ended or not message.get("more_body", False)  # a disconnection has none either
        return message

    async def send(self, message: Message) -> None:
        if self._ended:
            return await self._send(message)
        if message["type"] == "http.response.start":
            return await self._send({**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]})
        if message.get("more_body", False):
            return await self._send(message)
        await self._send({**message, "more_body": True})  # all of it: the client has the length
        await self._throw_away()
        await self._send({"type": "http.response.body", "body": b""})

    async def _throw_away(self) -> None:
        start, read = asyncio.get_running_loop().time(), 0
        try:
            async with asyncio.timeout_at(start + PATIENCE_SECONDS) as limit:
                while not self._ended and read < self._left:
                    read += len((await self.receive()).get("body", b""))
                    limit.reschedule(start + PATIENCE_SECONDS + read / SLOWEST)
        except TimeoutError:
            pass
