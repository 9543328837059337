"""The places of a fleet and who sits in them: restarts with growing delay, a cap, a floor, and draining. Pure.

Time is what the caller says (seconds of a monotonic clock); nothing here waits, starts or ends anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from common.backoff import backoff


@dataclass(frozen=True)
class Limits:
    """How patient a fleet is with a slot whose workers are lost.

    After the n-th loss in a row the next worker starts `first_delay * 2^(n-1)` seconds later, but never more than
    `longest_delay`. A slot whose worker finished a job begins a new row. After `restarts` restarts in a row the next
    loss is the slot's end. With fewer than `floor` slots left the fleet is too small to go on.
    """

    restarts: int
    floor: int
    first_delay: float = 1.0
    longest_delay: float = 60.0

    def delay(self, losses: int) -> float:
        """Seconds until the next start after so many losses (>= 1) in a row."""
        return backoff(losses, self.first_delay, self.longest_delay)


@dataclass(eq=False)
class Worker:
    """One process, from the asking for it to its end.

    Attributes:
        handle: what the owner reaches it by.
        since: time at which its oldest job, or the taking over of weights, began.
        version: of the weights that it proved to hold; None as long as it has proved none that it should hold.
        pid: known with the first proof.
        wrong: how often it held other weights than it should since its last finished job.
        jobs: what it was given and has not finished, oldest first.
    """

    handle: Any
    since: float
    version: int | None = None
    pid: int | None = None
    wrong: int = 0
    jobs: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class Slot:
    """A place for one worker at a time.

    Attributes:
        number: 0, 1, 2, ... never used again for another slot of the fleet.
        due: time from which a worker may be started here.
        losses: workers lost in a row, without a finished job in between.
        draining: its worker gets no further jobs, and nobody comes after it.
        given_up: nobody comes here any more.
    """

    number: int
    due: float
    worker: Worker | None = None
    losses: int = 0
    draining: bool = False
    given_up: bool = False


@dataclass(frozen=True)
class Loss:
    """What the loss of a worker means: its unfinished jobs, and in how many seconds the next starts (None: never)."""

    jobs: tuple[Any, ...]
    again_in: float | None


class Slots:
    """As many slots as workers are desired, besides those that drain."""

    def __init__(self, desired: int, limits: Limits, now: float) -> None:
        self.desired, self.limits = desired, limits
        self._numbers = count()
        self._slots = [Slot(next(self._numbers), now) for _ in range(desired)]

    def all(self) -> list[Slot]:
        return list(self._slots)

    def workers(self) -> list[Worker]:
        """Everyone who was started and neither lost nor ended, draining ones too."""
        return [slot.worker for slot in self._slots if slot.worker is not None]

    def ready(self, version: int | None) -> list[Worker]:
        """Those who proved this version and may be given jobs; none for None."""
        return [
            slot.worker
            for slot in self._slots
            if slot.worker is not None and not slot.draining and version is not None and slot.worker.version == version
        ]

    def slot_of(self, worker: Worker) -> Slot | None:
        """Where the worker sits; None for one that was lost or ended."""
        return next((slot for slot in self._slots if slot.worker is worker), None)

    def due(self, now: float) -> list[Slot]:
        """Empty slots in which a worker is to be started now."""
        return [slot for slot in self._slots if slot.worker is None and not slot.given_up and slot.due <= now]

    def give(self, worker: Worker, job: Any, now: float) -> None:
        """The worker has this job from now on."""
        if not worker.jobs:
            worker.since = now
        worker.jobs.append(job)

    def settle(self, worker: Worker, job: Any, now: float) -> None:
        """The worker answered for a job: it is alive, which says nothing yet about whether it can work."""
        worker.jobs.remove(job)
        worker.since = now

    def succeed(self, worker: Worker) -> None:
        """The worker finished a job well: earlier losses and wrong weights are forgiven."""
        worker.wrong = 0
        slot = self.slot_of(worker)
        if slot is not None:
            slot.losses = 0

    def lose(self, worker: Worker, now: float) -> Loss:
        """Takes a worker out that is dead or is to be ended. It must be in a slot."""
        slot = self.slot_of(worker)
        if slot is None:
            raise ValueError("this worker is in no slot")
        jobs, worker.jobs, slot.worker = tuple(worker.jobs), [], None
        if slot.draining:
            self._slots.remove(slot)
            return Loss(jobs, None)
        slot.losses += 1
        if slot.losses > self.limits.restarts:
            slot.given_up = True
            return Loss(jobs, None)
        again_in = self.limits.delay(slot.losses)
        slot.due = now + again_in
        return Loss(jobs, again_in)

    def resize(self, desired: int, now: float) -> None:
        """Changes how many workers there shall be. Slots that were given up are replaced by new ones.

        More: draining slots are taken back first. Fewer: empty slots go first, then those whose worker has not come up
        yet, then those with the fewest jobs.
        """
        self.desired = desired
        self._slots = [slot for slot in self._slots if not slot.given_up]
        staying = [slot for slot in self._slots if not slot.draining]
        for slot in [slot for slot in self._slots if slot.draining][: max(0, desired - len(staying))]:
            slot.draining = False
            staying.append(slot)
        self._slots += [Slot(next(self._numbers), now) for _ in range(desired - len(staying))]
        for slot in sorted(staying, key=_reluctance)[: max(0, len(staying) - desired)]:
            slot.draining = True
        self._slots = [slot for slot in self._slots if slot.worker is not None or not slot.draining]

    def drained(self) -> list[Worker]:
        """Takes out the draining workers that have finished all their jobs."""
        done = [slot for slot in self._slots if slot.draining and slot.worker is not None and not slot.worker.jobs]
        self._slots = [slot for slot in self._slots if slot not in done]
        return [slot.worker for slot in done if slot.worker is not None]

    def left(self) -> int:
        """How many slots neither drain nor were given up."""
        return sum(not slot.draining and not slot.given_up for slot in self._slots)

    def too_few(self) -> bool:
        """Whether so many slots were given up that the fleet is below its floor."""
        return self.left() < min(self.limits.floor, self.desired)


def _reluctance(slot: Slot) -> tuple[bool, bool, int, int]:
    """Sorts slots by how little is lost when they drain."""
    worker = slot.worker
    return (
        worker is not None,
        worker is not None and worker.pid is not None,
        len(worker.jobs) if worker else 0,
        -slot.number,
    )
