"""Inputs and outputs of scorers.

A scorer maps a group's images to one `Score` per candidate. Where a task does not have what it needs, that is
an error in every score, never a number.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from editing.task import EditTask
from rewards.result import Score


@dataclass(frozen=True, eq=False)
class ScoreInput:
    """What scorers see: the task, the candidates' images uint8 [G, H, W, 3], and ACD float32 [G] if measured.

    Raises:
        ValueError: when the images do not have the task's size.
    """

    task: EditTask
    images: NDArray[np.uint8]
    acd: NDArray[np.float32] | None

    def __post_init__(self) -> None:
        size = (self.task.height, self.task.width, 3)
        if self.images.ndim != 4 or self.images.shape[1:] != size or self.images.dtype != np.uint8:
            raise ValueError(
                f"task {self.task.task_id}: images must be uint8 [G, {', '.join(map(str, size))}], the size of "
                f"its source; got {self.images.dtype} {list(self.images.shape)}."
            )
        if self.acd is not None and self.acd.shape != self.images.shape[:1]:
            raise ValueError(f"task {self.task.task_id}: acd must be [{len(self.images)}]; got {list(self.acd.shape)}.")

    @property
    def pixels(self) -> int:
        """Of all its images together, source and target included."""
        return self.task.height * self.task.width * (len(self.images) + 1 + (self.task.target is not None))


PlainScorer = Callable[[ScoreInput], Sequence[Score]]
"""One `Score` per candidate, at once."""
WaitingScorer = Callable[[ScoreInput], Awaitable[Sequence[Score]]]
"""One `Score` per candidate, awaited: it sends requests, or computes in a thread."""


def scores_of(values: NDArray[np.floating], name: str) -> tuple[Score, ...]:
    """A score per value; an error that names the component where a value is not finite."""
    return tuple(Score.of(value, name) for value in values.tolist())


def refused(given: ScoreInput, name: str, why: str) -> tuple[Score, ...]:
    """The same error for every candidate: the task does not have what the component needs."""
    return (Score(error=f"{name}: task {given.task.task_id} {why}", reason="lacking"),) * len(given.images)
