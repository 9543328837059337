"""The return value of a user's scorer as scores: a value or an error that names it, for every candidate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from configs.text import shown
from rewards.result import Score


def checked(returned: Any, size: int, who: str) -> tuple[Score, ...]:
    """One score per candidate from what a scorer returned; errors that name it where that is not possible."""
    values = _plain(returned)
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        return (Score(error=f"{who}: expected {size} numbers, one per candidate; got {typed(returned)}"),) * size
    if len(values) != size:
        return (Score(error=f"{who}: expected {size} numbers, one per candidate; got {len(values)}"),) * size
    return tuple(_one(_plain(value), f"{who}: candidate {i}") for i, value in enumerate(values))


def _one(value: Any, where: str) -> Score:
    if isinstance(value, Score):
        return value if value.error is None else Score(error=f"{where}: {value.error}", reason=value.reason)
    # A truth value is refused, since a mask returned by mistake would pass for scores of 0 and 1.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Score(error=f"{where}: expected a number; got {typed(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return Score.of(number, where)


def _plain(value: Any) -> Any:
    """Arrays and tensors, and numbers of theirs, as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def typed(value: object) -> str:
    """A value for a sentence, with its type."""
    return f"{type(value).__name__} {shown(value)}"
