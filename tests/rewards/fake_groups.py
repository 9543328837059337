"""Groups without a rollout, for tests of the reward pool."""

from dataclasses import dataclass, replace

import numpy as np

from configs.schema import RunConfig
from editing.task import EditTask


@dataclass(frozen=True)
class FakeLease:
    task_index: int
    group_id: str = "000000.000.0"


@dataclass(frozen=True)
class FakeGroup:
    lease: FakeLease
    task_id: str
    images: np.ndarray
    acd: np.ndarray | None = None
    policy_version: int = 3


def config(**weights: float) -> RunConfig:
    return RunConfig(rewards={"weights": weights})


def group_of(task: EditTask, index: int, **changes) -> FakeGroup:
    """The right answer, the untouched source, and grey."""
    images = np.stack([task.target, task.source, np.full_like(task.source, 128)])
    return replace(FakeGroup(FakeLease(index), task.task_id, images), **changes)
