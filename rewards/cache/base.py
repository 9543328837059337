"""The content-addressed cache of judge scores. It is never authoritative: what it lacks is requested again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

SCHEMA = "1"
"""Version of the stored text; a value of another version is not read."""
Part = str | bytes | int | float | bool | None
"""What a key can be made of."""


class CacheError(RuntimeError):
    """The configured cache cannot be set up; the sentence says what to install or to change."""


@dataclass(frozen=True)
class CacheStatistics:
    """Counts since the cache was opened.

    Attributes:
        hits: scores that came from the cache.
        misses: scores that did not, for whatever reason.
        faults: failed requests to the server: unreachable, too slow, or refused.
        corrupt: stored values that were not a score of their key; each is a miss too.
        away: 1 from a fault until the server responds again, else 0.
    """

    hits: int = 0
    misses: int = 0
    faults: int = 0
    corrupt: int = 0
    away: int = 0


class ScoreCache(Protocol):
    """Scores by key. No method ever fails because of the server behind it."""

    async def ready(self) -> None:
        """Returns when the server responds, or after a timeout; called before the first request."""
        ...

    async def get(self, keys: Sequence[str]) -> list[float | None]:
        """One finite score per key, or None where it is not known."""
        ...

    async def put(self, values: Mapping[str, float]) -> None:
        """Keeps scores if it can.

        Raises:
            ValueError: when a score is not finite; nothing is kept then.
        """
        ...

    def statistics(self) -> CacheStatistics: ...

    async def close(self) -> None:
        """Closes connections, and ends a server of the run's own."""
        ...


class NoCache:
    """A cache that stores nothing."""

    def __init__(self) -> None:
        self._misses = 0

    async def ready(self) -> None:
        """Nothing to wait for."""

    async def get(self, keys: Sequence[str]) -> list[float | None]:
        self._misses += len(keys)
        return [None] * len(keys)

    async def put(self, values: Mapping[str, float]) -> None:
        check_finite(values)

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(misses=self._misses)

    async def close(self) -> None:
        """Nothing to close."""


def cache_key(**parts: Part) -> str:
    """SHA-256 (64 hexadecimal digits) of the named parts, whatever their order.

    Parts of different names, types or values give different keys: the text "1" is not the number 1, nor is 1 the
    number 1.0, and bytes are not the text of their digest. Bytes enter by their own SHA-256.

    Raises:
        TypeError: for a part of another type, which might not have one text only.
        ValueError: for a number that is not finite.
    """
    canonical = json.dumps([[name, *_typed(name, parts[name])] for name in sorted(parts)], allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _typed(name: str, part: Part) -> tuple[str, Part]:
    if isinstance(part, bytes):
        return "bytes", hashlib.sha256(part).hexdigest()
    for kind in (bool, int, float, str, type(None)):  # bool first: it is an int, too
        if isinstance(part, kind):
            return kind.__name__, part
    raise TypeError(f"cache key: {name} must be text, bytes, a number, a bool or None; got {type(part).__name__}.")


def check_finite(values: Mapping[str, float]) -> None:
    """Raises ValueError for a value that is not finite, since an error must never be kept as a score."""
    for key, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"cache: the score of {key} must be finite; got {value}. Errors are not kept.")


def encode(key: str, value: float) -> bytes:
    """The stored text, such as `1:<key>:0.85`.

    It names its key, so that a response to another request (a copied database, a client that lost count of its
    responses) is never taken for a score of this one.
    """
    return f"{SCHEMA}:{key}:{float(value)!r}".encode()


def decode(key: str, stored: object) -> float | None:
    """The score in a stored text; None unless it is exactly what `encode` writes for this key and a finite score."""
    prefix = f"{SCHEMA}:{key}:".encode()
    if not isinstance(stored, bytes) or not stored.startswith(prefix):
        return None
    try:
        value = float(stored.removeprefix(prefix))
    except ValueError:
        return None
    return value if math.isfinite(value) and encode(key, value) == stored else None
