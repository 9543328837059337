"""What the scripted server responds: bodies in the shape of vLLM's OpenAI protocol, good and bad."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request as the server saw it.

    `probe` is a one-token request for no log-probabilities; `images` are PNG bytes, in order; `urls` says how
    many images came as anything but a data: URL (must be 0). `fields` is the body without messages.
    """

    number: int
    time: float
    behaviour: str
    probe: bool
    seed: int | None
    temperature: float | None
    max_tokens: int | None
    text: str
    images: tuple[bytes, ...] = field(repr=False)
    urls: int
    authorization: str | None
    fields: Mapping[str, Any] = field(repr=False)

    def summary(self) -> dict[str, Any]:
        """The same as plain values, images by their sha256."""
        hashes = [hashlib.sha256(image).hexdigest() for image in self.images]
        return {**self.__dict__, "images": hashes, "fields": dict(self.fields)}


def hashed_scores(asked: Asked) -> tuple[int, int]:
    """Two scores 5..25 that depend on the images, the text and the seed alone."""
    digest = hashlib.sha256(b"|".join((*asked.images, asked.text.encode(), str(asked.seed).encode()))).digest()
    return 5 + digest[0] % 21, 5 + digest[1] % 21


def tokens_of(text: str) -> list[int]:
    """One token per character, numbered as Qwen numbers printable ASCII: "0" is 15, ..., "5" is 20."""
    return [ord(character) - 33 for character in text]


def completion(asked: Asked, model: str, scores: Sequence[float], kind: str, argument: str) -> dict[str, Any]:
    """The body of a 200 response for a behaviour whose HTTP is in order."""
    digits = bool(asked.fields.get("logprobs"))
    if kind == "constant":
        scores = (12, 12)
    elif kind == "over":
        scores = (float(argument or 26),) * 2
    elif kind == "nan":
        scores = (math.nan, math.nan)
    elif kind == "count":
        scores = tuple(scores[i % 2] for i in range(int(argument or 1)))
    digit = 0 if not scores or math.isnan(scores[0]) else min(5, max(0, round(scores[0] / 5)))
    if asked.probe:
        text = "a"
    elif digits:
        text = str(digit)
    else:
        text = json.dumps(_filled(asked.fields, iter(scores), scores))
    finish = "stop"
    if kind == "garbage":
        text = "I like this picture very much."
    elif kind == "text":
        text = argument
    elif kind == "empty":
        text = ""
    elif kind == "truncated":
        text, finish = text[: len(text) // 2], "length"
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
        "logprobs": None,
        "stop_reason": None,
    }
    if digits:
        choice["logprobs"] = {"content": _logprobs(asked, text, digit, kind) if text else []}
    if kind == "null":
        choice["message"]["content"] = None
    return {
        "id": f"chatcmpl-{asked.number}",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [] if kind == "no_choices" else [choice],
        "usage": {"prompt_tokens": 10, "completion_tokens": max(1, len(text)), "total_tokens": 11 + len(text)},
    }


def _filled(fields: Mapping[str, Any], numbers: Iterator[float], scores: Sequence[float]) -> dict[str, Any]:
    """A JSON response that fits the schema asked for: numbers in order, an array takes all of them."""
    schema = (fields.get("response_format") or {}).get("json_schema", {}).get("schema", {})
    properties = schema.get("properties") or {"reasoning": {"type": "string"}, "score": {"type": "array"}}
    found: dict[str, Any] = {}
    for name, kind in properties.items():
        if kind.get("type") == "array":
            found[name] = list(scores)
        elif kind.get("type") in ("integer", "number"):
            number = next(numbers, None)
            if number is not None:
                found[name] = number
        else:
            found[name] = "As asked; the rest is unchanged."
    return found


def _logprobs(asked: Asked, text: str, digit: int, kind: str) -> list[dict[str, Any]]:
    """The first token's log-probabilities: raw, so of more tokens than the allowed ones, as vLLM gives them."""
    mass = 0.1 if kind == "low_mass" else 0.95
    shares = {tokens_of(str(d))[0]: mass * (0.8 if d == digit else 0.04) for d in range(6)}
    others = {100 + i: (1 - mass) / 20 for i in range(14)}
    ranked = sorted({**shares, **others}.items(), key=lambda item: -item[1])
    top = [_token(asked, token, math.nan if kind == "nan" else math.log(share)) for token, share in ranked]
    drawn = _token(asked, tokens_of(text)[0], math.log(0.8 * mass))
    return [{**drawn, "top_logprobs": top[: asked.fields.get("top_logprobs") or 0]}]


def _token(asked: Asked, token: int, logprob: float) -> dict[str, Any]:
    as_id = asked.fields.get("return_tokens_as_token_ids")
    text = chr(token + 33)
    return {"token": f"token_id:{token}" if as_id else text, "logprob": logprob, "bytes": list(text.encode())}
