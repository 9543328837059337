"""A user's own scorer, by dotted path.

    # my_package/scorers.py                       rewards:
    import numpy as np                              scorers: {sharpness: "my_package.scorers:sharpness"}
                                                    weights: {edit_score: 1.0, sharpness: 0.1}
    def sharpness(given):
        grey = given.images.mean(axis=3)
        return np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2)) / 255

`given` is a `rewards.inputs.ScoreInput`: `given.images` uint8 [G, H, W, 3], `given.task` with source, edit_mask,
instruction, target, and `given.acd`. The function returns one number per candidate, larger is better: a list, a numpy
array or a torch tensor [G]; in a list, `rewards.result.Score(error="...")` stands where there is no number. It may be
`async`; otherwise it runs in a thread, so a slow one holds up nobody.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from rewards.inputs import ScoreInput
from rewards.result import Score


class ScorerError(ValueError):
    """A scorer of the user's own cannot be loaded; the sentence names its key and says why."""


def load_scorer(name: str, dotted: str) -> Callable[[ScoreInput], Awaitable[tuple[Score, ...]]]:
    """The scorer at `package.module:function`, checked: one `Score` per candidate, whatever the function returns.

    It sees copies, so that it cannot change what other scorers see. What is no number from -1e9 to 1e9, or not as many
    as there are candidates, becomes errors that name the component; an exception of the function passes through.

    Args:
        name: the component.
        dotted: `package.module:function`, of the form that the configuration has checked.

    Raises:
        ScorerError: when there is no such function; the sentence names `rewards.scorers.NAME`. What the module's own
            code raises while it is imported, other than failed imports and bad syntax, passes through as it is.
    """
    function = _found(name, dotted)
    runs_at_once = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    )

    async def scorer(given: ScoreInput) -> tuple[Score, ...]:
        shown = _copied(given)
        returned = function(shown) if runs_at_once else await asyncio.to_thread(function, shown)
        if inspect.isawaitable(returned):
            returned = await returned
        return checked(returned, len(given.images), f"{name} ({dotted})")

    return scorer


def checked(returned: Any, size: int, who: str) -> tuple[Score, ...]:
    """One score per candidate from what a scorer returned; errors that name it where that is not possible."""
    values = _plain(returned)
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        return (Score(error=f"{who}: expected {size} numbers, one per candidate; seen {_shown(returned)}"),) * size
    if len(values) != size:
        return (Score(error=f"{who}: expected {size} numbers, one per candidate; seen {len(values)}"),) * size
    return tuple(_one(_plain(value), f"{who}: candidate {i}") for i, value in enumerate(values))


def _one(value: Any, where: str) -> Score:
    if isinstance(value, Score):
        return value if value.error is None else Score(error=f"{where}: {value.error}", reason=value.reason)
    # A truth value is refused, since a mask returned by mistake would pass for scores of 0 and 1.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Score(error=f"{where}: expected a number; seen {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return Score.of(number, where)


def _plain(value: Any) -> Any:
    """Arrays and tensors, and numbers of theirs, as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def _shown(value: object) -> str:
    return f"{type(value).__name__} {value!r:.80}"


def _copied(given: ScoreInput) -> ScoreInput:
    """What the scorer may do with as it likes: a read-only view could be made writable again."""
    task = given.task
    return ScoreInput(
        replace(task, source=task.source.copy(), edit_mask=task.edit_mask.copy(),
                target=None if task.target is None else task.target.copy(),
                regions={name: mask.copy() for name, mask in task.regions.items()}),
        given.images.copy(), None if given.acd is None else given.acd.copy())


def _found(name: str, dotted: str) -> Callable[[ScoreInput], Any]:
    key = f"rewards.scorers.{name}"
    module_name, _, attribute = dotted.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise ScorerError(
            f"{key}: {module_name} cannot be imported ({type(error).__name__}: {error}); is it installed, or on "
            "PYTHONPATH?"
        ) from error
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise ScorerError(f"{key}: {module_name} has no {attribute!r}") from error
    if not callable(found) or inspect.isclass(found):
        raise ScorerError(f"{key}: expected {dotted} to be a function of one ScoreInput, seen {_shown(found)}")
    return found
