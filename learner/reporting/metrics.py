"""Metrics of a run as numbers: metrics.jsonl always, TensorBoard where asked for.

Names have fixed prefixes: reward/, rollout/, judge/, learner/, sync/, system/ and evaluation/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from learner.log import warn
from learner.reporting.records import EvaluationRecord, GroupRecord, RunRecord, StepRecord
from locus.common.files import write_whole


class TrackerError(RuntimeError):
    """A tracker was asked for whose library is not installed; the sentence has the command."""


def check_tracker(kind: Literal["none", "tensorboard"]) -> None:
    """Raises TrackerError when the library of the tracker that `report.tracker` names is missing."""
    if kind == "tensorboard":
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise TrackerError(
                "report.tracker: tensorboard is not installed; type: python -m pip install tensorboard   "
                "(or run with --report.tracker none)"
            ) from error


class TensorBoardTracker:
    """Event files below `folder`.

    A disk that refuses does not stop training: it is said once, what was not written is lost, and the next metrics go
    into a new file.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._make = folder, SummaryWriter
        self._writer: SummaryWriter | None = None
        self._failed = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        try:
            if self._writer is None:
                self._writer = self._make(str(self._folder))
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except OSError as error:
            if not self._failed:
                warn("tensorboard_not_written", path=str(self._folder), reason=str(error))
            self._failed = True
            self.close()  # its thread has ended with the error, which it would raise again on every call

    def close(self) -> None:
        """May be called twice."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError):
                writer.close()


def open_tracker(kind: Literal["none", "tensorboard"], run: RunRecord) -> TensorBoardTracker | None:
    """The tracker that `report.tracker` names; `check_tracker` comes first."""
    return None if kind == "none" else TensorBoardTracker(run.folder / "tensorboard")


def step_metrics(record: StepRecord) -> dict[str, float]:
    """One step as flat numbers."""
    ages = record.staleness or {0: 0}
    return {
        **{f"reward/{name}": value for name, value in record.reward_mean.items()},
        **{f"reward/{name}_std": value for name, value in record.reward_std.items()},
        "reward/zero_std_share": record.zero_std_share,
        **{f"reward/invalid/{name}": count for name, count in record.invalid.items()},
        **{f"reward/silent/{name}": 1 for name in record.silent},
        **{f"reward/floored/{name}": count for name, count in record.floored.items()},
        **{f"judge/{name}": value for name, value in record.judge.items()},
        "rollout/groups_per_minute": record.groups_per_minute,
        "rollout/staleness_max": max(ages),
        **{
            f"rollout/{name}": getattr(record.counters, name)
            for name in ("leased", "trained", "rejected", "requeued", "in_flight", "replayed")
        },
        **{f"learner/{name}": value for name, value in record.learner.items()},
        "sync/version": record.version,
        **{f"system/seconds_{name}": value for name, value in record.seconds.items()},
    }


def evaluation_metrics(record: EvaluationRecord) -> dict[str, float]:
    """One held-out measurement as flat numbers."""
    return {
        **{f"evaluation/{name}": value for name, value in record.mean.items()},
        **{f"evaluation/{name}_se": value for name, value in record.standard_error.items()},
        "system/seconds_evaluation": record.seconds,
    }


class MetricsLog:
    """An observer that writes metrics.jsonl (one JSON object per line) and feeds the tracker.

    Each line has `kind` (step, base, training or final), `step`, and the metrics. After a resume, lines of
    steps that are done again are dropped first, so that every step stands once. A full disk does not stop
    training: it is said once, and the lines are kept and written, whole and in order, as soon as the disk takes them
    again; the tracker goes on from there.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._tracker: TensorBoardTracker | None = None
        self._unwritten = bytearray()
        self._failed = False

    def on_start(self, record: RunRecord) -> None:
        self.close()  # a run that goes back to an earlier step starts again
        self._unwritten.clear()
        self._path = record.folder / "metrics.jsonl"
        self._tracker = open_tracker(record.config.report.tracker, record)
        try:
            _keep_until(self._path, record.first_step)
        except OSError as error:
            self._refused(error)

    def on_notice(self, sentence: str) -> None:
        """Nothing: it is in events.jsonl."""

    def on_group(self, record: GroupRecord) -> None:
        """Nothing: groups are in events.jsonl."""

    def on_step(self, record: StepRecord) -> None:
        self._write("step", record.step, step_metrics(record))

    def on_evaluation(self, record: EvaluationRecord) -> None:
        self._write(record.label, record.step, evaluation_metrics(record))

    def on_end(self, summary: Mapping[str, Any]) -> None:
        self.close()

    def close(self) -> None:
        """Lets the tracker finish; may be called twice."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()

    def _write(self, kind: str, step: int, metrics: Mapping[str, float]) -> None:
        assert self._path is not None, "on_start comes first"
        self._unwritten += json.dumps({"kind": kind, "step": step, **metrics}).encode() + b"\n"
        try:
            with self._path.open("ab", buffering=0) as file:
                while self._unwritten:
                    # A disk that fills up takes a part of a line: the rest follows later.
                    del self._unwritten[: file.write(self._unwritten)]
        except OSError as error:
            self._refused(error)
            return
        self._failed = False
        if self._tracker is not None:
            self._tracker.log(metrics, step)

    def _refused(self, error: OSError) -> None:
        if not self._failed:
            warn("metrics_not_written", path=str(self._path), reason=str(error))
        self._failed = True


def _keep_until(path: Path, step: int) -> None:
    """Drop the lines of later steps, and a last line that a crash cut off; a new run starts with none."""
    if not path.exists():
        return
    kept = []
    if step > 0:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            # The base is measured again after a resume.
            if isinstance(entry, dict) and entry.get("kind") != "base" and entry.get("step", step + 1) <= step:
                kept.append(line)
    write_whole(path, "".join(f"{line}\n" for line in kept))
