"""The reward pool in a process of its own, as an asynchronous Ray actor: groups that wait for judges wait together.

A plain class; `learner.backends.ray` makes an actor of it. How many groups wait here is bounded by the leases that
there are, see `learner.scheduling.collector.Collector`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.output import protect_output
from configs.schema import RunConfig
from editing.data import Tasks
from editing.task import Image
from editing.trajectory import TrajectoryGroup
from rewards.open import open_pool
from rewards.pool import Split
from rewards.result import GroupScores

SECRETS = ("LOCUS_JUDGE_API_KEY", "LOCUS_REDIS_PASSWORD")


def secrets() -> dict[str, str]:
    """The pool's secrets in this process's environment."""
    return {name: os.environ[name] for name in SECRETS if name in os.environ}


class PoolActor:
    """A `RewardPool` with the tasks that it is handed."""

    def __init__(self, config: RunConfig, folder: Path, secrets: Mapping[str, str], tasks: Tasks) -> None:
        """`secrets` are the driver's: a cluster that ran before it has an environment of its own."""
        os.environ.update(secrets)
        protect_output(always=True)  # what it says of servers is worth no score
        self._pool = open_pool(config, tasks, folder=folder)

    async def start(self) -> dict[str, int]:
        """See `RewardPool.start`."""
        return await self._pool.start()

    async def score(self, group: TrajectoryGroup) -> GroupScores:
        """See `RewardPool.score`."""
        return await self._pool.score(group)

    async def set_urls(self, judge: str, urls: Sequence[str]) -> None:
        """See `RewardPool.set_urls`."""
        await self._pool.set_urls(judge, urls)

    async def statistics(self) -> dict[str, float]:
        """See `RewardPool.statistics`."""
        return await self._pool.statistics()

    async def close(self) -> None:
        """See `RewardPool.close`."""
        await self._pool.close()

    def measure(self, indices: list[int], images: list[Image], split: Split) -> list[dict[str, float]]:
        """See `RewardPool.measure`."""
        return self._pool.measure(indices, images, split)

    def images(self, group: TrajectoryGroup) -> Image:
        """The images of a group, taken out where the group is."""
        return group.images
