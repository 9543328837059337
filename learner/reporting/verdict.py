"""The verdict on a finished run: whether it learnt anything, and whether it damaged the editor. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from learner.reporting.reward_stats import MIN_TASKS

Outcome = Literal["trained", "nothing_learnt", "ruined"]
"""`trained`: nothing speaks against the adapter. `nothing_learnt`: it does nothing, or most steps were skipped.
`ruined`: the editor lies far below its base."""

GUARDED = ("edit_score", "editscore_truth", "edit_accuracy", "edit_psnr", "background_psnr", "background_ssim")
"""Held-out metrics, larger is better, that a run may not lose."""
TRUTHS = ("edit_score", "editscore_truth", "edit_accuracy")
"""Held-out metrics that know the asked outcome. `edit_psnr` is not one: another image of the right edit may be as far
from the target as the source is."""
COPIED_SHARE = 0.5
"""Where no truth is known, an editor that changes less than this share of what the base changes inside the mask learnt
to copy its source."""
FAR_DECIBEL = 3.0
"""A PSNR that falls by more has more than twice the squared error of the base."""
FAR_SHARE = 0.25
"""A metric in 0..1 is far below the base when more than this share of the base's value is lost."""
ERRORS = 2.0
"""Standard errors of the paired difference to either side: an interval of about 95 %."""
SMALLEST_CHANGE = 1e-7
"""An adapter that changes no weight matrix by more than this share of it is lost in the rounding of float32."""
LARGEST_CHANGE = 10.0
"""An adapter whose change of some weight matrix is that many times larger than the matrix leaves nothing of the base,
whether or not anything was measured."""


@dataclass(frozen=True)
class Verdict:
    """The outcome and the reasons for it, a sentence each; none where the outcome is `trained`."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()


def skipped_steps(events: Iterable[Mapping[str, Any]]) -> int:
    """How many of the steps in a run's weights were skipped; what a resume or a rollback undid does not count."""
    skipped: set[int] = set()
    for event in events:
        if event["event"] in ("resumed", "rolled_back"):
            skipped = {step for step in skipped if step <= event["step"]}
        elif event["event"] == "step_skipped":
            skipped.add(event["step"])
    return len(skipped)


def judged(
    steps: int,
    skipped: int,
    change: float,
    tasks: Mapping[str, int],
    base: Mapping[str, float],
    gain: Mapping[str, float],
    gain_error: Mapping[str, float],
    not_finite: int = 0,
) -> Verdict:
    """The verdict on a run.

    Args:
        steps: of the run.
        skipped: how many of them changed nothing, because their gradient was not finite.
        change: the adapter's largest change of a weight matrix, relative to it; see `editing.editors.lora`.
        tasks: how many held-out tasks each gain was measured on.
        base: held-out means of the base; empty without held-out tasks.
        gain: means of trained - base over the same tasks.
        gain_error: standard errors of these means; a metric of a single task has none.
        not_finite: of how many held-out tasks only the base makes an image. They are in none of the means.
    """
    idle = _idle(steps, skipped, change, gain, gain_error)
    if idle and not not_finite:  # weights that spoil an image have learnt something
        return Verdict("nothing_learnt", tuple(idle))
    known = {name: error for name, error in gain_error.items() if tasks[name] >= MIN_TASKS}
    ruin = _lost(tasks, base, gain, known)
    if not change <= LARGEST_CHANGE:  # NaN is ruin too
        ruin.append(f"the adapter changes a weight matrix by {change:.3g} times its own size")
    if not_finite:
        ruin.append(f"of {not_finite} held-out tasks only the base makes an image")
    return Verdict("ruined", tuple(ruin)) if ruin else Verdict("trained")


def _idle(steps: int, skipped: int, change: float, gain: Mapping[str, float], error: Mapping[str, float]) -> list[str]:
    found = []
    if 2 * skipped > steps:
        found.append(f"{skipped} of {steps} steps were skipped because their gradient was not finite")
    if change == 0:
        found.append("the adapter is unchanged: it alters no weight")
    elif change < SMALLEST_CHANGE:
        found.append(
            f"the adapter changes no weight matrix by more than {change:.1e} of its size, which is below the "
            "rounding of float32"
        )
    elif gain and not any(gain.values()) and not any(error.values()):
        found.append("the trained editor makes of every held-out task what the base makes of it")
    return found


def _lost(
    tasks: Mapping[str, int], base: Mapping[str, float], gain: Mapping[str, float], error: Mapping[str, float]
) -> list[str]:
    found = []
    for name in GUARDED:
        if name not in error:
            continue
        far = FAR_DECIBEL if name.endswith("psnr") else FAR_SHARE * abs(base[name])
        highest = gain[name] + ERRORS * error[name]
        if math.isfinite(highest) and highest < -far:
            unit = " dB" if name.endswith("psnr") else ""
            found.append(
                f"{name} fell from {base[name]:.3g} to {base[name] + gain[name]:.3g}{unit} on the held-out tasks"
            )
    if "edit_change" in error and not any(name in error and tasks[name] >= tasks["edit_change"] for name in TRUTHS):
        left = base["edit_change"] + gain["edit_change"] + ERRORS * error["edit_change"]
        if left < COPIED_SHARE * base["edit_change"]:
            found.append(
                f"edit_change fell from {base['edit_change']:.3g} to "
                f"{base['edit_change'] + gain['edit_change']:.3g}: the editor copies its source"
            )
    return found
