"""Which task is rolled out when: a function of the run's seed and the step, so that resuming needs only the step."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from editing.trajectory import Lease, derive_seed


class LeaseSampler:
    """Leases for every step: all tasks once per epoch, in an order drawn anew for each epoch.

    Place p of the run (p = step * groups_per_step + slot) is task `order(epoch)[p mod num_tasks]` of epoch
    `p // num_tasks`. A task that is redone keeps its place and gets a new attempt, and so a new group id: with its
    noise where the group was lost, so that what happened to a worker does not show in the result, and with a new seed
    where the group itself was of no use. In place of a task that is to be skipped comes the next one of the epoch's
    order.
    """

    def __init__(self, run_seed: int, num_tasks: int, groups_per_step: int, anew_from: int | None = None) -> None:
        """
        Args:
            run_seed, num_tasks, groups_per_step: of the run.
            anew_from: the first step that is made a second time, with other seeds; see `learner.state.rollback`.

        Raises:
            ValueError: for no tasks or no groups.
        """
        if num_tasks < 1 or groups_per_step < 1:
            raise ValueError(
                f"a run needs at least one training task and one group per step, got {num_tasks} tasks and "
                f"learner.groups_per_step = {groups_per_step}"
            )
        self._run_seed, self.num_tasks, self._groups = run_seed, num_tasks, groups_per_step
        self._anew_from = anew_from
        self._skipped: set[int] = set()
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def leases(self, step: int, version: int) -> list[Lease]:
        """The first attempts of a step (0-based), one per slot, under a policy version."""
        attempt = int(self._anew_from is not None and step >= self._anew_from)
        return [self._lease(step, slot, attempt, version) for slot in range(self._groups)]

    def redraw(self, lease: Lease, version: int) -> Lease:
        """The next attempt for the same slot of the same step, under a policy version, with other noise; at the same
        task, unless that is to be skipped."""
        return self._lease(lease.step, lease.slot, lease.attempt + 1, version)

    def repeat(self, lease: Lease, version: int) -> Lease:
        """The next attempt at the same task with the same noise, for a group that was lost."""
        return replace(lease, attempt=lease.attempt + 1, policy_version=version)

    def task(self, step: int, slot: int) -> int:
        """The task that a lease at this place is for, as long as no further one is skipped."""
        order, place = self._place(step, slot)
        return next(task for task in map(int, chain(order[place:], order[:place])) if task not in self._skipped)

    def skip(self, task: int) -> None:
        """No lease is for this task from now on.

        Raises:
            ValueError: when no other is left.
        """
        if len(self._skipped | {task}) == self.num_tasks:
            raise ValueError(f"none of the {self.num_tasks} training tasks is left; the last one skipped was {task}")
        self._skipped.add(task)

    def _lease(self, step: int, slot: int, attempt: int, version: int) -> Lease:
        task, (order, place) = self.task(step, slot), self._place(step, slot)
        epoch = (step * self._groups + slot) // self.num_tasks
        instead = () if task == order[place] else ("instead of", int(order[place]))
        seed = derive_seed(self._run_seed, epoch, task, attempt, *instead)
        return Lease(step, slot, task, attempt, seed, policy_version=version)

    def _place(self, step: int, slot: int) -> tuple[NDArray[np.int64], int]:
        """The order of the epoch, and the place in it."""
        epoch, place = divmod(step * self._groups + slot, self.num_tasks)
        return self._order(epoch), place

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        # Ranks of raw Philox words: unlike numpy's `permutation`, fixed for all time.
        words = np.random.Philox(key=derive_seed(self._run_seed, "order", epoch)).random_raw(self.num_tasks)
        order: NDArray[np.int64] = np.argsort(words, kind="stable")
        return order


def at_version(lease: Lease, version: int) -> Lease:
    """The lease under another policy version; what is random in it stays."""
    return replace(lease, policy_version=version)
