"""A score is a value or an error, never a filler number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

LARGEST_SCORE = 1e9
"""Largest size of a score. Beyond it a number is taken for a fault of its scorer: sums of weighted scores and of their
squares must stay numbers, in float32 too."""
Reason = Literal["failed", "lacking", "not_finite", "too_large", "unavailable", "refused", "bad_response"]
"""Why there is no score, for counting: the scorer failed; the task lacks what it needs; it gave NaN or infinity; it
gave more than `LARGEST_SCORE`; no judge responded; the judge refused the request; its response was not a score."""


@dataclass(frozen=True)
class Score:
    """One component's verdict on one candidate: a `value`, finite and at most `LARGEST_SCORE` in size, or an `error`
    sentence with its `reason` in a word.

    `passes` are the single responses that `value` is the mean of, where a judge was asked more than once.
    """

    value: float | None = None
    error: str | None = None
    passes: tuple[float, ...] = ()
    reason: Reason | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.error is None):
            raise ValueError("a score is either a value or an error, exactly one of the two")
        if self.value is not None and not abs(self.value) <= LARGEST_SCORE:  # NaN is not, either
            raise ValueError(
                f"a score must be finite and at most {LARGEST_SCORE:g} in size, got {self.value}; report "
                "an error instead"
            )
        if self.reason is not None and self.error is None:
            raise ValueError(f"a reason belongs to an error, got {self.reason!r} for the value {self.value}")
        if self.passes and (self.value is None or not all(math.isfinite(one) for one in self.passes)):
            raise ValueError(f"passes belong to a value and must be finite, got {self.passes}")

    @classmethod
    def of(cls, value: float, scorer: str) -> Score:
        """A value, or an error that names the scorer if it is not finite or larger than `LARGEST_SCORE`."""
        if abs(value) <= LARGEST_SCORE:
            return cls(value=float(value))
        if math.isfinite(value):
            return cls(
                error=f"{scorer}: expected a number from {-LARGEST_SCORE:g} to {LARGEST_SCORE:g}, got "
                f"{value:g}; divide its scores by a constant",
                reason="too_large",
            )
        return cls(error=f"{scorer}: expected a finite number, got {value}", reason="not_finite")


@dataclass(frozen=True)
class GroupScores:
    """Scores of a whole group by component: `components[name][i]` judges candidate i.

    `diagnostics` are of the same form; people watch them, and neither the reward nor the validity depends on them. A
    constraint may: `algorithm.preservation.background_target`.
    """

    group_id: str
    policy_version: int
    components: Mapping[str, tuple[Score, ...]]
    seconds: float
    diagnostics: Mapping[str, tuple[Score, ...]] = field(default_factory=dict)

    @property
    def valid(self) -> tuple[bool, ...]:
        """Candidate i is valid if every component has a value for it."""
        return tuple(
            all(score.value is not None for score in scores) for scores in zip(*self.components.values(), strict=True)
        )

    @property
    def invalid(self) -> dict[str, int]:
        """How many candidates have no score, by component and reason, such as `editscore_unavailable`."""
        return dict(
            Counter(
                f"{name}_{score.reason or 'failed'}"
                for name, scores in self.components.items()
                for score in scores
                if score.value is None
            )
        )

    @property
    def errors(self) -> tuple[str, ...]:
        return tuple(sorted({s.error for scores in self.components.values() for s in scores if s.error}))
