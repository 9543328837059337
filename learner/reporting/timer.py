"""Wall time by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Phases:
    """Seconds by phase, summed over however many times a phase was timed; phases may nest."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, other: Mapping[str, float]) -> None:
        """Adds the seconds of another timer."""
        for phase, spent in other.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """A context whose wall time counts for the phase, also when it raises."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.add({phase: time.monotonic() - start})
