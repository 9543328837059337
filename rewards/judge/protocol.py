"""Requests and responses in the format of the OpenAI protocol, with vLLM's additions. No I/O."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from rewards.judge.messages import Field, JudgeRefused, JudgeRequest
from rewards.judge.retries import ServerFault

TOKEN_ID = "token_id:"


class _Likely(BaseModel):
    token: str
    logprob: float


class _Token(_Likely):
    top_logprobs: list[_Likely] | None = None


class _LogProbs(BaseModel):
    content: list[_Token] | None = None


class _Part(BaseModel):
    text: str = ""


class _Message(BaseModel):
    content: str | list[_Part] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    def found(self) -> tuple[str, Field]:
        """The text, and the field that it stands in: a server with a reasoning parser may file a whole response under
        reasoning, as its newer name is, or reasoning_content, and leave the content empty."""
        content = self.content
        text = "".join(part.text for part in content) if isinstance(content, list) else content or ""
        if text.strip():
            return text, "content"
        if self.reasoning_content:
            return self.reasoning_content, "reasoning_content"
        return (self.reasoning, "reasoning") if self.reasoning else (text, "content")


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _LogProbs | None = None


class Completion(BaseModel):
    """What Locus reads of a chat completion; what a server may leave out or set to null is optional."""

    choices: list[_Choice]


class Tokens(BaseModel):
    """What Locus reads of vLLM's /tokenize."""

    tokens: list[int]


def chat_request(request: JudgeRequest, model: str) -> dict[str, Any]:
    """The body of POST /chat/completions.

    Images travel inside it, as data: URLs, so that no server ever fetches anything. `allowed_token_ids`, `top_k`,
    `return_tokens_as_token_ids` and `logprob_token_ids` are vLLM's; they are sent only where the request needs them.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": [_part(part) for part in request.parts]}],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
    }
    if request.top_k is not None:
        body["top_k"] = request.top_k
    if request.json_schema is not None:
        # Not guided_json, which current vLLM accepts and silently ignores.
        schema = {"name": "answer", "strict": True, "schema": dict(request.json_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.allowed_token_ids:
        body["allowed_token_ids"] = list(request.allowed_token_ids)
    if request.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs, "return_tokens_as_token_ids": True}
        if request.allowed_token_ids:
            # Current vLLM reports exactly these; one that does not know the field reports the most likely tokens, among
            # which an allowed one may be missing.
            body["logprob_token_ids"] = list(request.allowed_token_ids)
    return body


class Reply(NamedTuple):
    """A server's reply: text, finish reason, log-probabilities of the first token by token id, and the field of the
    message that the text stood in."""

    text: str
    finish_reason: str
    logprobs: dict[int, float]
    field: Field


def read_completion(body: bytes, request: JudgeRequest) -> Reply:
    """The reply in a response with status 200.

    Raises:
        ServerFault: when the body is not a chat completion.
        JudgeRefused: when log-probabilities were asked for and did not come, or not by token id.
    """
    try:
        completion = Completion.model_validate_json(body)
        choice = completion.choices[0]
    except (ValidationError, IndexError):
        raise ServerFault(
            f"answered 200 with something that is not a chat completion: {shortened(body)}", "failed"
        ) from None
    logprobs = _first_token(choice.logprobs) if request.top_logprobs else {}
    text, field = choice.message.found()
    return Reply(text, choice.finish_reason or "", logprobs, field)


def read_tokens(body: bytes) -> tuple[int, ...]:
    """The token ids of a response of /tokenize.

    Raises:
        ServerFault: when the body is not such a response.
    """
    try:
        return tuple(Tokens.model_validate_json(body).tokens)
    except ValidationError:
        raise ServerFault(f"/tokenize answered 200 without tokens: {shortened(body)}", "failed") from None


def advice(said: str) -> str:
    """What to change where a server refused a request for one of two common reasons; empty for any other."""
    words = said.lower()
    if any(sign in words for sign in ("model length", "context length", "context size", "max_model_len")):
        return (
            " The images and max_tokens do not fit into the judge's context: serve it with a larger one (vLLM: "
            "--max-model-len; in a run's own servers serve.arguments), or lower data.resolution"
        )
    if any(sign in words for sign in ("response_format", "json_schema", "json schema")):
        return " This judge needs a server that enforces a JSON schema (response_format), such as vLLM"
    return ""


def shortened(text: bytes | str, limit: int = 300) -> str:
    """The beginning of a server's response, on one line."""
    words = text[: 4 * limit].decode(errors="replace") if isinstance(text, bytes) else text[: 4 * limit]
    line = " ".join(words.split())
    return (line if len(line) <= limit else line[:limit] + " ...") or "(nothing)"


def _first_token(logprobs: _LogProbs | None) -> dict[int, float]:
    if logprobs is None:
        raise JudgeRefused("the server sends no log-probabilities; this judge needs a server that does, such as vLLM")
    if not logprobs.content:  # an empty response has no first token
        return {}
    first = logprobs.content[0]
    found: dict[int, float] = {}
    for token in (first, *(first.top_logprobs or ())):
        number = token.token.removeprefix(TOKEN_ID)
        if number == token.token or not number.isdecimal():
            raise JudgeRefused(
                "the server names tokens by their text, not by their id (return_tokens_as_token_ids); "
                "this judge needs a server that does, such as vLLM"
            )
        found[int(number)] = token.logprob
    return found


def _part(part: str | bytes) -> Mapping[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": _data_url(part)}}


@lru_cache(maxsize=32)
def _data_url(png: bytes) -> str:
    """An image is part of many requests (passes, candidates of one source): written out once, not every time."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
