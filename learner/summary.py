"""The content of summary.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from configs.run_files import EVENTS
from editing.data import Tasks
from learner.backends.base import Exported, HeldOut
from learner.reporting.alarm_monitor import notifications
from learner.reporting.records import RunRecord
from learner.reporting.reward_stats import mean_and_error, paired_counts, paired_gain
from learner.reporting.verdict import judged, skipped_steps
from learner.scheduling.active_run import TrainingResult
from learner.state.event_log import read_events
from learner.state.provenance import code_fingerprint
from locus.version import __version__


def summary(
    record: RunRecord,
    tasks: Tasks,
    trained: TrainingResult,
    before: HeldOut,
    after: HeldOut,
    exported: Exported,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The summary of a run, JSON values."""
    events = list(read_events(record.folder / EVENTS))
    steps = [event for event in events if event["event"] == "step"]

    def reward_std(step: int) -> float | None:
        # The last event of a step counts: earlier ones belong to a continuation that was given up.
        return next((event["reward_std"] for event in reversed(steps) if event["step"] == step), None)

    def block(found: tuple[dict[str, float], dict[str, float]]) -> dict[str, dict[str, float]]:
        return {"mean": found[0], "standard_error": found[1]}

    base, final = before.metrics, after.metrics
    gain, gain_error = paired_gain(base, final)
    verdict = judged(
        record.config.learner.steps,
        skipped_steps(events),
        exported.change,
        paired_counts(base, final),
        mean_and_error(base)[0],
        gain,
        gain_error,
        len(after.not_finite.keys() - before.not_finite.keys()),
    )
    return {
        "name": record.config.name,
        "folder": str(record.folder),
        "config_hash": record.config_hash,
        "locus_version": __version__,
        "code": code_fingerprint(record.config.own_modules),
        "data": tasks.fingerprints,
        "steps": record.config.learner.steps,
        "first_step": record.first_step,
        "held_out_tasks": record.held_out_tasks,
        "base": block(mean_and_error(base)),
        "final": block(mean_and_error(final)),
        "gain": block((gain, gain_error)),
        "verdict": {"outcome": verdict.outcome, "reasons": list(verdict.reasons)},
        "reward_std": {"first_step": reward_std(1), "last_step": reward_std(record.config.learner.steps)},
        "notifications": notifications(events),
        "counters": asdict(trained.counters),
        "group_bytes": dict(trained.group_bytes),
        "left_out": {
            "tasks": {str(task): reason for task, reason in trained.spoiled.items()},
            "lines": {key: lines.sentences() for key, lines in tasks.faults.items()},
        },
        "data_remarks": list(tasks.remarks),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "adapter": str(exported.path),
        "adapter_change": exported.change if math.isfinite(exported.change) else None,
    }
