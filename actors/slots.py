"""The worker slots of a fleet: restart policy, minimum number of workers, and draining. Pure.

Time is what the caller says (seconds of a monotonic clock); nothing here waits, starts or ends anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from editing.weights import WeightProof
from locus.common.restarts import RestartPolicy


@dataclass(eq=False)
class Worker:
    """One process, from the asking for it to its end.

    Attributes:
        handle: what the owner reaches it by.
        since: time at which its oldest job, or the taking over of weights, began.
        held: the weights that it proved to hold; None as long as it has proved none that it should hold.
        pid: known with the first proof.
        wrong: how often it held other weights than it should since its last finished job.
        jobs: what it was given and has not finished, oldest first.
        lost: why it was given up; empty while it was not.
    """

    handle: Any
    since: float
    held: WeightProof | None = None
    pid: int | None = None
    wrong: int = 0
    jobs: list[Any] = field(default_factory=list)
    lost: str = ""


@dataclass(eq=False)
class Slot:
    """A worker slot: it holds one worker at a time.

    Attributes:
        number: 0, 1, 2, ... never used again for another slot of the fleet.
        due: time from which a worker may be started here.
        losses: workers lost in a row, without a finished job in between.
        draining: its worker gets no further jobs, and none is started after it.
        given_up: no worker is started here any more.
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
    """As many worker slots as workers are desired, besides those that drain.

    The restart policy's row of losses is one slot's: a finished job of its worker ends it. A slot that the policy gives
    up stays empty. With fewer than `floor` slots left the fleet is too small to go on.
    """

    def __init__(self, desired: int, policy: RestartPolicy, floor: int, now: float) -> None:
        self.desired, self.policy, self.floor = desired, policy, floor
        self._numbers = count()
        self._slots = [Slot(next(self._numbers), now) for _ in range(desired)]

    def all(self) -> list[Slot]:
        return list(self._slots)

    def workers(self) -> list[Worker]:
        """All that were started and neither lost nor ended, draining ones too."""
        return [slot.worker for slot in self._slots if slot.worker is not None]

    def ready(self, announced: WeightProof | None) -> list[Worker]:
        """Those that proved these weights and may be given jobs; none for None."""
        return [
            slot.worker
            for slot in self._slots
            if slot.worker is not None and not slot.draining and announced is not None and slot.worker.held == announced
        ]

    def slot_of(self, worker: Worker) -> Slot | None:
        """The worker's slot; None for one that was lost or ended."""
        return next((slot for slot in self._slots if slot.worker is worker), None)

    def due(self, now: float) -> list[Slot]:
        """Empty slots in which a worker is to be started now."""
        return [slot for slot in self._slots if slot.worker is None and not slot.given_up and slot.due <= now]

    def give(self, worker: Worker, job: Any, now: float) -> None:
        """Assigns the job to the worker."""
        if not worker.jobs:
            worker.since = now
        worker.jobs.append(job)

    def settle(self, worker: Worker, job: Any, now: float) -> None:
        """The worker returned from a job: it is alive, though the job may have failed."""
        worker.jobs.remove(job)
        worker.since = now

    def succeed(self, worker: Worker) -> None:
        """The worker finished a job successfully, which resets its counts of losses and wrong weights."""
        worker.wrong = 0
        slot = self.slot_of(worker)
        if slot is not None:
            slot.losses = 0

    def lose(self, worker: Worker, now: float) -> Loss:
        """Removes a worker that is dead or is to be ended. It must be in a slot."""
        slot = self.slot_of(worker)
        if slot is None:
            raise ValueError("this worker holds no slot")
        jobs, worker.jobs, slot.worker = tuple(worker.jobs), [], None
        if slot.draining:
            self._slots.remove(slot)
            return Loss(jobs, None)
        slot.losses += 1
        if self.policy.gives_up(slot.losses):
            slot.given_up = True
            return Loss(jobs, None)
        again_in = self.policy.delay(slot.losses)
        slot.due = now + again_in
        return Loss(jobs, again_in)

    def resize(self, desired: int, now: float) -> None:
        """Changes the desired number of workers. Slots that were given up are replaced by new ones.

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
        return self.left() < min(self.floor, self.desired)


def _reluctance(slot: Slot) -> tuple[bool, bool, int, int]:
    """Sorts slots by how little is lost when they drain."""
    worker = slot.worker
    return (
        worker is not None,
        worker is not None and worker.pid is not None,
        len(worker.jobs) if worker else 0,
        -slot.number,
    )
