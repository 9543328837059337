"""Calls of the processes of a run on Ray, and what became of what was handed over."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from editing.trajectory import Lease
from learner.backends.base import LostOnTheWay, Taken
from learner.backends.ray_results import GroupLost, Spoiled
from learner.errors import LearnerLost


@dataclass
class Calls:
    """Calls of a process that are not answered yet, and when it last answered one or was first called."""

    open: int = 0
    answered_at: float = 0.0

    def began(self) -> None:
        if not self.open:
            self.answered_at = time.monotonic()
        self.open += 1

    def ended(self) -> None:
        self.open, self.answered_at = self.open - 1, time.monotonic()

    def silent_for(self) -> float:
        """Seconds since the process should have answered."""
        return time.monotonic() - self.answered_at if self.open else 0.0


def outcome(lease: Lease, losses: Sequence[GroupLost | Spoiled | None]) -> Taken | LostOnTheWay:
    """What became of a group that was handed over, by what each of the learner's processes says.

    Raises:
        LearnerLost: when only some of them have it.
    """
    lost = [loss for loss in losses if loss is not None]
    if not lost:
        return Taken(lease)
    if len(lost) < len(losses):
        raise LearnerLost(
            f"Only {len(losses) - len(lost)} of the learner's {len(losses)} processes took group "
            f"{lease.group_id}: {lost[0]} Continue from the last checkpoint with --resume."
        )
    return LostOnTheWay(lease, str(lost[0]), isinstance(lost[0], Spoiled))
