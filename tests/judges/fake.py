"""A judge and a cache in memory, for tests of what asks them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence

from rewards.cache.base import CacheStatistics
from rewards.judge.messages import JudgeError, JudgeRequest, JudgeResponse

Reply = str | JudgeResponse | JudgeError
"""A text, a whole response, or what `ask` raises."""


class FakeJudge:
    """Answers from a function of the request (and keeps every request), or the same to all.

    `requests` are all that were asked, `notes` what was noted and `reasons` why, `peak` how many were under way at
    once, `cancelled` how many were given up, `tokenized` the texts whose tokens were asked for. `note_raises` is raised
    by `note(False)`.
    """

    def __init__(
        self,
        response: Callable[[JudgeRequest], Reply] | Reply = '{"reasoning": "", "score": [20, 15]}',
        tokens: Mapping[str, tuple[int, ...]] | JudgeError | None = None,
        note_raises: JudgeError | None = None,
        seconds: float = 0.0,
    ) -> None:
        self._respond = response
        self._tokens = tokens
        self._note_raises = note_raises
        self._seconds = seconds
        self.requests: list[JudgeRequest] = []
        self.notes: list[bool] = []
        self.reasons: list[str] = []
        self.tokenized: list[str] = []
        self.active = self.peak = self.cancelled = 0

    async def ask(self, request: JudgeRequest) -> JudgeResponse:
        self.requests.append(request)
        self.active += 1
        self.peak = max(self.peak, self.active)
        try:
            await asyncio.sleep(self._seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.active -= 1
        reply = self._respond(request) if callable(self._respond) else self._respond
        if isinstance(reply, JudgeError):
            raise reply
        return response_of(reply) if isinstance(reply, str) else reply

    async def token_ids(self, text: str) -> tuple[int, ...]:
        """As Qwen numbers printable ASCII, unless told otherwise: "0" is 15."""
        self.tokenized.append(text)
        if isinstance(self._tokens, JudgeError):
            raise self._tokens
        return tuple(ord(c) - 33 for c in text) if self._tokens is None else self._tokens[text]

    def note(self, usable: bool, why: str = "") -> None:
        assert usable != bool(why)
        self.notes.append(usable)
        self.reasons.append(why)
        if not usable and self._note_raises is not None:
            raise self._note_raises


def response_of(text: str, logprobs: Mapping[int, float] | None = None, finish_reason: str = "stop") -> JudgeResponse:
    """A response of the server `http://fake/v1`."""
    return JudgeResponse(text, finish_reason, logprobs or {}, "http://fake/v1", 0.1)


def digits(*probabilities: float, others: Mapping[int, float] | None = None) -> JudgeResponse:
    """A one-token response with these probabilities of "0", "1", ... and those of other tokens."""
    shares = {15 + digit: p for digit, p in enumerate(probabilities)} | dict(others or {})
    return response_of("3", {token: math.log(p) for token, p in shares.items() if p > 0}, "length")


class MemoryCache:
    """A cache that is a dictionary, `values`."""

    def __init__(self, values: Mapping[str, float] | None = None) -> None:
        self.values = dict(values or {})
        self.hits = self.misses = 0

    async def get(self, keys: Sequence[str]) -> list[float | None]:
        found = [self.values.get(key) for key in keys]
        self.hits += sum(value is not None for value in found)
        self.misses += sum(value is None for value in found)
        return found

    async def ready(self) -> None:
        """It always is."""

    async def put(self, values: Mapping[str, float]) -> None:
        assert all(math.isfinite(value) for value in values.values())
        self.values |= values

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(hits=self.hits, misses=self.misses)

    async def close(self) -> None:
        """Nothing to close."""
