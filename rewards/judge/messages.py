"""Requests to a judge and its responses, independent of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Field = Literal["content", "reasoning_content", "reasoning"]
"""Where in a chat message a text stands."""


class JudgeError(RuntimeError):
    """A request got no usable response; the sentence says from whom and why."""


class JudgeUnavailable(JudgeError):
    """No server responded in time: an infrastructure fault. The request is retryable."""


class JudgeRefused(JudgeError):
    """The server understood the request and refused it (a 4xx): not retryable."""


class BadResponse(JudgeError):
    """The server responded, but not with a score."""


class JudgesDown(JudgeError):
    """A failure limit is reached; the run must stop. The sentence says which limit and what was last seen."""


@dataclass(frozen=True)
class JudgeRequest:
    """One chat request: text and images in order, and how the response is sampled.

    Attributes:
        parts: str is text, bytes is a PNG.
        json_schema: the response must be JSON of this schema.
        allowed_token_ids: the response is sampled from these tokens only.
        top_logprobs: how many of the most likely tokens come with each token; 0 for none. With `allowed_token_ids`
            those come instead, from servers that can tell any token's.
    """

    parts: tuple[str | bytes, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0
    json_schema: Mapping[str, Any] | None = field(default=None, hash=False)
    allowed_token_ids: tuple[int, ...] = ()
    top_logprobs: int = 0


@dataclass(frozen=True)
class JudgeResponse:
    """The response of a server.

    Attributes:
        text: the whole response.
        finish_reason: `stop`, or `length` where `max_tokens` cut it off.
        logprobs: of the first token, the log-probability by token id (empty unless asked for).
        server: which server responded.
        seconds: from the first attempt until the response.
        field: of the message that the text stood in; another one than `content` only where that was empty.
    """

    text: str
    finish_reason: str
    logprobs: Mapping[int, float]
    server: str
    seconds: float
    field: Field = "content"


class Judge(Protocol):
    """Servers of one model, seen as one."""

    async def ask(self, request: JudgeRequest) -> JudgeResponse:
        """The response of whichever server is least busy.

        Raises:
            JudgeUnavailable: after `attempts` tries or `patience` seconds.
            JudgeRefused: when the server refused the request itself.
            JudgesDown: when the limit of consecutive requests without a response is reached.
        """
        ...

    async def token_ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, without special tokens, as the served tokenizer makes them."""
        ...

    async def rehearse(self, request: JudgeRequest) -> None:
        """Sends this to every server once, before the first real request.

        Raises:
            JudgeRefused: when one refuses it, as it would refuse others of this size and form.
        """
        ...

    def note(self, usable: bool, why: str = "") -> None:
        """Counts a response as a score or as a bad response; `why` says what was wrong with it.

        Raises:
            JudgesDown: when the share of bad responses is above `max_bad_answers`.
        """
        ...
