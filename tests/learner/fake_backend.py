"""A backend without editors: leases go in, and what comes out is what a script says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import config_hash
from configs.schema import RunConfig
from editing.task import NOT_FINITE
from editing.trajectory import Generated, Lease
from editing.weights import WeightProof
from learner.backends.base import Delivered, Exported, HeldOut, Lost, LostOnTheWay, Taken, Unsaved
from learner.update.step_report import StepReport, StepTotals
from rewards.result import GroupScores, Score


def delivery(config: RunConfig, lease: Lease, valid: int | None = None) -> Delivered:
    """A whole group of `lease`, whose first `valid` candidates have scores."""
    size = config.sampler.group_size
    valid = size if valid is None else valid
    values = np.random.default_rng(lease.seed % 2**32).random(size)
    scores = tuple(Score(value=float(v)) if i < valid else Score(error="no") for i, v in enumerate(values))
    return Delivered(
        Generated(lease, f"task-{lease.task_index}", lease.policy_version, config_hash(config), 0.01, pid=1),
        GroupScores(lease.group_id, lease.policy_version, {"background_psnr": scores}, 0.01),
        handle=lease,
    )


@dataclass
class FakeBackend:
    """`choose(n)` in 0..n-1 decides what happens next; `fate(lease)` what becomes of a lease, and `way(lease)` what of
    a group that is handed to the learner: `taken`, `lost` or `spoiled`."""

    config: RunConfig
    choose: Callable[[int], int]
    fate: Callable[[Lease], str] = lambda lease: "ok"
    way: Callable[[Lease], str] = lambda lease: "taken"
    applied: Callable[[int], bool] = lambda step: True
    slots: int = 3
    skipped: int = 0
    version: int = 0
    first_step: int = 0
    out: list[Lease] = field(default_factory=list)
    late: list[Delivered | Lost] = field(default_factory=list)
    handed: list[Delivered] = field(default_factory=list)
    submitted: list[Lease] = field(default_factory=list)
    consumed: list[list[Delivered]] = field(default_factory=lambda: [[]])
    ways: list[tuple[str, str]] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    counters: list[Any] = field(default_factory=list)
    notify: Callable[..., None] = lambda event, **fields: None
    statistics: Mapping[str, float] = field(default_factory=dict)

    def start(self, step: int, allowed: Sequence[str] = ()) -> None:
        self.version = self.first_step = step

    def capacity(self) -> int:
        return self.slots - len(self.out)

    def submit(self, lease: Lease) -> None:
        assert self.capacity() > 0 and lease.policy_version == self.version
        self.out.append(lease)
        self.submitted.append(lease)

    def next_delivery(self, timeout: float) -> Delivered | Taken | Lost | None:
        pool = len(self.out) + len(self.late) + bool(self.handed)
        assert pool, "the loop waits although nothing is out"
        pick = self.choose(pool + 1)
        if pick == pool:
            return None
        if pick >= len(self.out) + len(self.late):
            return self._response(self.handed.pop(0))
        if pick >= len(self.out):
            return self.late.pop(pick - len(self.out))
        lease = self.out.pop(pick)
        fate = self.fate(lease)
        whole = delivery(self.config, lease)
        if fate not in ("lost", "spoiled", "not finite"):
            self.notify("generated", group=lease.group_id, pid=1, version=lease.policy_version, seconds=0.0)
        self.calls.append((fate, lease.group_id))
        if fate == "lost":
            return Lost(lease, "killed")
        if fate == "not finite":
            return Lost(lease, f"its latents {NOT_FINITE}")
        if fate == "spoiled":
            return Lost(lease, "its file is gone", spoiled=True)
        if fate == "late":  # given up, but it arrives all the same
            self.late.append(whole)
            return Lost(lease, "deadline")
        if fate == "twice":
            self.late.append(whole)
        if fate == "lost after":
            self.late.append(Lost(lease, "killed"))
        if fate == "unscored":
            return delivery(self.config, lease, valid=1)
        if fate == "mixed":
            return replace(whole, generated=replace(whole.generated, policy_version=lease.policy_version - 1))
        if fate == "foreign":
            return replace(whole, generated=replace(whole.generated, config_hash="0" * 64))
        if fate == "swapped":
            return replace(whole, scores=replace(whole.scores, group_id="other"))
        assert fate in ("ok", "twice", "lost after")
        return whole

    def pool_statistics(self) -> Mapping[str, float]:
        return self.statistics

    def consume(self, delivered: Delivered) -> None:
        self.handed.append(delivered)

    def _response(self, delivered: Delivered) -> Taken | LostOnTheWay:
        way = self.way(delivered.lease)
        self.ways.append((way, delivered.lease.group_id))
        if way == "taken":
            self.consumed[-1].append(delivered)
            return Taken(delivered.lease)
        return LostOnTheWay(delivered.lease, f"{way} on the way", spoiled=way == "spoiled")

    def update(self, meanwhile: Callable[[], None]) -> StepReport:
        assert not self.handed, "a step is made without a group that is on its way"
        meanwhile()
        self.calls.append(("update", len(self.consumed[-1])))
        self.consumed.append([])
        step = self.first_step + len(self.consumed) - 1
        applied = self.applied(step)
        self.skipped = 0 if applied else self.skipped + 1
        return StepReport(step, applied, self.skipped, StepTotals(seconds={"optimizer": 0.5}))

    def publish(self) -> WeightProof:
        self.version = self.first_step + len(self.consumed) - 1
        self.calls.append(("publish", self.version))
        return WeightProof(self.version, "0" * 64, 1)

    def images(self, delivered: Delivered) -> np.ndarray:
        return np.full((self.config.sampler.group_size, 4, 4, 3), delivered.lease.slot, np.uint8)

    def measure_held_out(self, indices: Sequence[int], base: bool, shown: int) -> HeldOut:
        self.calls.append(("measure", self.version, base, shown))
        return HeldOut([{"background_psnr": 20.0 + i + (0 if base else 1)} for i in indices], ())

    def save(self, extra: Mapping[str, Any]) -> Path | Unsaved:
        step = self.first_step + len(self.consumed) - 1
        self.calls.append(("save", step))
        self.counters.append(extra["books"])
        return Path(f"step_{step}")

    def export(self, folder: Any, metadata: Any) -> Any:
        return Exported(folder, 0.1)

    def close(self) -> None:
        self.calls.append(("close",))
