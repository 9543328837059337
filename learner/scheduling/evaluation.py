"""Measures the policy on the held-out tasks: always the same tasks and the same noise per task."""

from __future__ import annotations

import time
from collections.abc import Sequence

from configs.schema import RunConfig
from learner.backends.base import Backend, HeldOut
from learner.reporting.notifications import announcer
from learner.reporting.records import EvaluationRecord, Observer
from learner.reporting.reward_stats import mean_and_error
from learner.state.event_log import EventLog


def measure(
    config: RunConfig,
    backend: Backend,
    label: str,
    step: int,
    tasks: int,
    events: EventLog,
    observers: Sequence[Observer],
) -> HeldOut:
    """The metrics of each held-out task under the published weights (`base`: without the adapter).

    None without held-out tasks; those of a task that went bad meanwhile, or of which the editor makes latents or
    pixels that are not finite, are empty, so that every comparison leaves it out on both sides.
    """
    if tasks == 0:
        return HeldOut([], ())
    start = time.monotonic()
    found = backend.measure_held_out(range(tasks), base=label == "base", shown=min(tasks, config.report.gallery_tasks))
    mean, error = mean_and_error(found.metrics)
    measured = tasks - len({*found.spoiled, *found.not_finite})
    record = EvaluationRecord(label, step, measured, mean, error, time.monotonic() - start, found.shown, found.metrics)
    announce = announcer(events, observers)
    for index, reason in found.spoiled.items():
        announce("task_skipped", split="held-out", task=index, reason=reason)
    if found.not_finite:
        whose, key = (
            ("the base editor", "editor.dtype float32")
            if label == "base"
            else ("the trained editor", "a lower learner.optimizer.lr or editor.lora.alpha")
        )
        announce(
            "alarm",
            metric="held_out_not_finite",
            step=step,
            size=len(found.not_finite),
            sentence=(
                f"step {step}: of {len(found.not_finite)} of {tasks} held-out tasks {whose} makes no image, and no "
                f"comparison has them: {next(iter(found.not_finite.values()))}. Try {key}."
            ),
        )
    events.write(
        "evaluated",
        label=label,
        step=step,
        tasks=measured,
        not_finite=len(found.not_finite),
        mean=mean,
        standard_error=error,
    )
    for observer in observers:
        observer.on_evaluation(record)
    return found
