"""Measures the policy on the held-out tasks: always the same tasks and the same noise per task."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from configs.schema import RunConfig
from learner.backend import Backend
from learner.events import EventLog
from learner.notices import announcer
from learner.observer import EvaluationRecord, Observer
from learner.statistics import mean_and_error


def measure(
    config: RunConfig, backend: Backend, label: str, step: int, tasks: int, events: EventLog,
    observers: Sequence[Observer],
) -> Sequence[Mapping[str, float]]:
    """The metrics of each held-out task under the published weights (`base`: without the adapter).

    None without held-out tasks; those of a task that went bad meanwhile are empty.
    """
    if tasks == 0:
        return []
    start = time.monotonic()
    found = backend.measure_held_out(range(tasks), base=label == "base", shown=min(tasks, config.report.gallery_tasks))
    mean, error = mean_and_error(found.metrics)
    measured = tasks - len(found.spoiled)
    record = EvaluationRecord(label, step, measured, mean, error, time.monotonic() - start, found.shown,
                              found.metrics)
    for index, reason in found.spoiled.items():
        announcer(events, observers)("task_skipped", split="held-out", task=index, reason=reason)
    events.write("evaluated", label=label, step=step, tasks=measured, mean=mean, standard_error=error)
    for observer in observers:
        observer.on_evaluation(record)
    return found.metrics
