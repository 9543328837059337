"""Which task is rolled out when: a function of the run's seed and the step, so that resuming needs only the step."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from actors.trajectory import Lease, derive_seed


class LeaseSampler:
    """Leases for every step: all tasks once per epoch, in an order drawn anew for each epoch.

    Place p of the run (p = step * groups_per_step + slot) is task `order(epoch)[p mod num_tasks]` of epoch
    `p // num_tasks`. A task that is redone keeps its place and gets a new attempt, and so a new seed and a new
    group id.
    """

    def __init__(self, run_seed: int, num_tasks: int, groups_per_step: int) -> None:
        """
        Raises:
            ValueError: for no tasks or no groups.
        """
        if num_tasks < 1 or groups_per_step < 1:
            raise ValueError(
                f"a run needs at least one training task and one group per step; seen {num_tasks} tasks and "
                f"learner.groups_per_step = {groups_per_step}")
        self._run_seed, self._num_tasks, self._groups = run_seed, num_tasks, groups_per_step
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def leases(self, step: int, version: int) -> list[Lease]:
        """The first attempts of a step (0-based), one per slot, under a policy version."""
        return [self._lease(step, slot, 0, version) for slot in range(self._groups)]

    def retry(self, lease: Lease, version: int) -> Lease:
        """The next attempt at the same task, for the same slot of the same step, under a policy version."""
        return self._lease(lease.step, lease.slot, lease.attempt + 1, version)

    def _lease(self, step: int, slot: int, attempt: int, version: int) -> Lease:
        epoch, place = divmod(step * self._groups + slot, self._num_tasks)
        task = int(self._order(epoch)[place])
        seed = derive_seed(self._run_seed, epoch, task, attempt)
        return Lease(step, slot, task, attempt, seed, policy_version=version)

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        # Ranks of raw Philox words: unlike numpy's `permutation`, fixed for all time.
        words = np.random.Philox(key=derive_seed(self._run_seed, "order", epoch)).random_raw(self._num_tasks)
        order: NDArray[np.int64] = np.argsort(words, kind="stable")
        return order


def at_version(lease: Lease, version: int) -> Lease:
    """The lease under another policy version; what is random in it stays."""
    return replace(lease, policy_version=version)
