"""Calls of the processes of a run on Ray, and what became of what was handed over."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from actors.fleet import FETCH_SECONDS
from editing.trajectory import Lease
from learner.backends.base import LostOnTheWay, Taken
from learner.backends.ray_results import GroupLost, Spoiled, Who, result_of
from learner.errors import LearnerLost
from locus.common.ray_coroutines import ready

if TYPE_CHECKING:
    import ray


class Calls:
    """The `open` calls of a process that must not hang: those without a response yet."""

    def __init__(self, who: Who) -> None:
        self.open = 0
        self._who: Who = who
        self._responded_at = 0.0  # the last one, or when the first was asked

    async def result(self, ref: ray.ObjectRef) -> Any:
        """The response to a call, once it is there; raises as `result_of`."""
        if not self.open:
            self._responded_at = time.monotonic()
        self.open += 1
        await ready(ref)
        self.open, self._responded_at = self.open - 1, time.monotonic()
        return result_of(self._who, ref, FETCH_SECONDS)

    def silent_for(self) -> float:
        """Seconds since the process should have responded."""
        return time.monotonic() - self._responded_at if self.open else 0.0


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
    return LostOnTheWay(lease, str(lost[0]), lost[0].spoiled)
