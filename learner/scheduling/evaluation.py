"""Measures the policy on the held-out tasks: always the same tasks and the same noise per task."""

from __future__ import annotations

import time
from typing import Literal

from learner.backends.base import HeldOut
from learner.reporting.records import EvaluationRecord
from learner.reporting.reward_stats import mean_and_error
from learner.scheduling.active_run import ActiveRun


def evaluate(run: ActiveRun, label: Literal["base", "training", "final"]) -> HeldOut:
    """The metrics of each held-out task under the published weights, or their running mean (`learner.optimizer.ema`);
    `base`: without the adapter.

    None without held-out tasks; those of a task that went bad meanwhile, or of which the editor makes latents or
    pixels that are not finite, are empty, so that every comparison leaves it out on both sides.
    """
    tasks, step = run.held_out_tasks, run.progress.done
    if tasks == 0:
        return HeldOut([], ())
    start, shown = time.monotonic(), min(tasks, run.config.report.gallery_tasks)
    found = run.backend.measure_held_out(range(tasks), base=label == "base", shown=shown)
    mean, error = mean_and_error(found.metrics)
    measured = tasks - len({*found.spoiled, *found.not_finite})
    seconds = time.monotonic() - start
    for index, reason in found.spoiled.items():
        run.reporter.announce("task_skipped", split="held-out", task=index, reason=reason)
    if found.not_finite:
        whose, key = (
            ("the base editor", "editor.dtype float32")
            if label == "base"
            else ("the trained editor", "a lower learner.optimizer.lr or editor.lora.alpha")
        )
        run.reporter.announce(
            "alarm",
            metric="held_out_not_finite",
            step=step,
            size=len(found.not_finite),
            sentence=(
                f"step {step}: of {len(found.not_finite)} of {tasks} held-out tasks {whose} makes no image, and no "
                f"comparison has them: {next(iter(found.not_finite.values()))}. Try {key}."
            ),
        )
    record = EvaluationRecord(
        label, step, measured, mean, error, seconds, found.shown, found.metrics, found.running_mean
    )
    run.reporter.evaluation(record, not_finite=len(found.not_finite))
    return found
