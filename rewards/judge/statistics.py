"""Statistics of a judge's servers, for the metrics. No I/O."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

LATENCIES = 512
"""Responses that the percentiles are taken over, the newest ones."""


@dataclass(frozen=True)
class JudgeStatistics:
    """Counts since the start, and the present state.

    Attributes:
        asked: requests.
        answered: requests with a response, whatever it says.
        unanswered: requests given up.
        refused: requests that a server refused.
        bad: responses without a score.
        retries: attempts after the first of a request.
        in_rotation: servers that get requests at the moment.
        p50_seconds: median time from the first attempt to the response, None before the first response.
        p95_seconds: 95th percentile of the same.
    """

    asked: int
    answered: int
    unanswered: int
    refused: int
    bad: int
    retries: int
    in_rotation: int
    p50_seconds: float | None
    p95_seconds: float | None


@dataclass
class Tally:
    """The running counts."""

    asked: int = 0
    answered: int = 0
    unanswered: int = 0
    refused: int = 0
    bad: int = 0
    retries: int = 0
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))

    def statistics(self, in_rotation: int) -> JudgeStatistics:
        return JudgeStatistics(
            self.asked,
            self.answered,
            self.unanswered,
            self.refused,
            self.bad,
            self.retries,
            in_rotation,
            percentile(self.seconds, 0.5),
            percentile(self.seconds, 0.95),
        )


def percentile(values: Collection[float], share: float) -> float | None:
    """The smallest value that at least `share` (above 0 to 1) of the values do not exceed; None of no values."""
    if not values:
        return None
    return sorted(values)[math.ceil(share * len(values)) - 1]
