"""Alarms for runs that learn something other than the requested edit. Pure: numbers in, alarms out.

Nothing here is compared with a number that suits one editor or one data set: candidates are compared with those of the
run's own start, when the policy was the base, and held-out edits with the base's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from learner.reporting.reward_stats import MIN_TASKS
from learner.reporting.verdict import COPIED_SHARE
from rewards.measure import DRIFTS as LOOKS

Group = Mapping[str, Sequence[float]]
"""What was measured of one group's candidates, by measure; see `rewards.watched`."""
Rows = Sequence[Mapping[str, float]]
"""Held-out metrics per task."""
Rewards = tuple[Sequence[float], Sequence[float]]
"""Mean training rewards of the steps at the start, and of those lately."""

CHANGE = "edit_change"
DRIFTS = tuple(f"{where}_{look}_drift" for where in ("edit", "background") for look in LOOKS)
EDITS = ("edit_score", "editscore_truth", "edit_accuracy", "edit_psnr")
BACKGROUNDS = ("background_psnr", "background_ssim")
"""Held-out metrics of the edit and of what lies outside its mask, larger is better."""

MIN_GROUPS = 8
"""Fewer groups than this, of the start or of late, show nothing: they do not tell a measure's standard deviation."""
LITTLE = 0.05
"""Candidates that changed no more inside the mask than this share of them did at the start count as unchanged."""
UNCHANGED_GROWTH = 5.0
"""So many times as many unchanged candidates as at the start are an alarm."""
SHIFT = 1.0
"""A measure of the look may shift by so many of its standard deviations, over groups (the larger of those at the start
and now) or held-out tasks (the base's)."""
VISIBLE = {**dict.fromkeys(LOOKS, 0.5 / 255), "sharpness": 0.1 / 255}
"""A shift that is no larger is invisible. The looks are means over a region (contrast: a standard deviation) of
gamma-encoded values in 0..1, where half of an 8-bit level is lost in rounding. Sharpness is the mean step between
neighbours, most of which are equal: a tenth of a level is a blur that takes ten levels from one step in a hundred."""
FALL_DECIBEL, FALL_SHARE = 1.0, 0.1
"""A held-out PSNR, or another of these metrics, may fall by so many dB, or by this share of the base's value."""
ERRORS = 3.0
"""A value within so many standard errors of zero is noise: many measures are looked at many times."""
AGAIN = 1.5
"""An alarm is told again when its size has grown by this factor since it was told."""


@dataclass(frozen=True)
class Alarm:
    """A notification: the metric that went wrong, after how many steps, its size in its own unit, and the sentence that
    says so and what to do."""

    metric: str
    step: int
    size: float
    sentence: str


@dataclass(frozen=True)
class _Found:
    """An alarm, and how many times what is allowed its size is."""

    alarm: Alarm
    excess: float


@dataclass(frozen=True)
class Reference:
    """The candidates of a run's start.

    Attributes:
        unchanged: the largest `edit_change` of a candidate that counts as unchanged; None where too few groups have it.
        unchanged_share: of the candidates; more than `LITTLE` where many have the same `edit_change`, exact copies say.
        mean, sd: of the groups' means, by drift and `edit_change` where enough groups have it.
        groups: how many have it.
    """

    unchanged: float | None
    unchanged_share: float
    mean: Mapping[str, float]
    sd: Mapping[str, float]
    groups: Mapping[str, int]


def reference(groups: Sequence[Group]) -> Reference:
    """What the groups of the start look like."""
    changes = [value for group in groups for value in group.get(CHANGE, ())]
    means = {name: values for name in (CHANGE, *DRIFTS) if len(values := _means(groups, name)) >= MIN_GROUPS}
    unchanged = float(np.quantile(changes, LITTLE)) if CHANGE in means else None
    return Reference(
        unchanged=unchanged,
        unchanged_share=0.0 if unchanged is None else _share(changes, unchanged),
        mean={name: float(np.mean(values)) for name, values in means.items()},
        sd={name: float(np.std(values, ddof=1)) for name, values in means.items()},
        groups={name: len(values) for name, values in means.items()},
    )


def candidate_alarms(start: Reference, recent: Sequence[Group], step: int) -> list[Alarm]:
    """What the candidates of the last steps show, compared with those of the start."""
    drifts = []
    for name in DRIFTS:
        values = _means(recent, name)
        if name in start.mean and len(values) >= MIN_GROUPS:
            shift, sd = float(np.mean(values)) - start.mean[name], float(np.std(values, ddof=1))
            error = math.hypot(sd / math.sqrt(len(values)), start.sd[name] / math.sqrt(start.groups[name]))
            # A few groups have much of the variation: a start without them varies too little to compare with.
            drifts += _drift(
                name,
                start.mean[name],
                shift,
                error,
                max(sd, start.sd[name]),
                step,
                "the candidates",
                "at the start and now",
                known=_is_background(name),
            )
    return [*_copied(start, recent, step), *_largest(drifts)]


def held_out_alarms(base: Rows, measured: Sequence[Rows], step: int, rewards: Rewards = ((), ())) -> list[Alarm]:
    """What held-out measurements show, compared with the base on the same tasks.

    Args:
        base: of the base editor.
        measured: one or more measurements in a row, the last one after `step` steps; what all of them show is told.
        step: optimizer steps done.
        rewards: for the sentence.
    """
    every = [_measured_alarms(base, rows, step, rewards) for rows in measured]
    shown = set.intersection(*({one.alarm.metric for one in found} for found in every))
    kept = [one for one in every[-1] if one.alarm.metric in shown]
    drifts = [one for one in kept if one.alarm.metric in DRIFTS]
    return [*(one.alarm for one in kept if one not in drifts), *_largest(drifts)]


def due(alarms: Iterable[Alarm], told: Mapping[str, float]) -> list[Alarm]:
    """Those that were not told before, or have become markedly worse; `told` has the size that each was told with."""
    return [alarm for alarm in alarms if alarm.metric not in told or abs(alarm.size) >= AGAIN * abs(told[alarm.metric])]


def _copied(start: Reference, recent: Sequence[Group], step: int) -> list[Alarm]:
    """The alarm of an editor that learns to copy its source, if it does: many times more candidates are unchanged,
    or less than `COPIED_SHARE` of the change is left, which also tells where the base itself fails many of its edits.

    Its size is the larger of the share of unchanged candidates and the share of the start's change that is lost; they
    are the same where some candidates become copies and the others stay as they were.
    """
    means = _means(recent, CHANGE)
    if start.unchanged is None or len(means) < MIN_GROUPS:
        return []
    found = []
    share = _share([value for group in recent for value in group.get(CHANGE, ())], start.unchanged)
    if share > UNCHANGED_GROWTH * start.unchanged_share:
        found.append(
            (
                share,
                (
                    f"{share:.0%} of the candidates changed next to nothing inside the edit mask (edit_change "
                    "no more than "
                    f"{start.unchanged:.3g}, as {start.unchanged_share:.0%} did at the start)"
                ),
            )
        )
    before, left = start.mean[CHANGE], float(np.mean(means))
    error = math.hypot(
        COPIED_SHARE * start.sd[CHANGE] / math.sqrt(start.groups[CHANGE]),
        float(np.std(means, ddof=1)) / math.sqrt(len(means)),
    )
    if COPIED_SHARE * before - left > ERRORS * error:
        found.append(
            (
                1 - left / before,
                (
                    f"inside the edit mask the candidates change {left / before:.0%} of what they did at the "
                    "start (mean "
                    f"edit_change {left:.3g} against {before:.3g})"
                ),
            )
        )
    if not found:
        return []
    size, seen = max(found)
    return [
        Alarm(
            CHANGE,
            step,
            size,
            (
                f"step {step}: {seen}: the editor learns to copy its source. Give the edit more weight in "
                "rewards.weights, or "
                "hold it with algorithm.preservation.velocity_weight."
            ),
        )
    ]


def _measured_alarms(base: Rows, rows: Rows, step: int, rewards: Rewards) -> list[_Found]:
    found: list[_Found] = []
    for name in (*EDITS, *BACKGROUNDS, *DRIFTS):
        pairs = [
            (before[name], after[name])
            for before, after in zip(base, rows, strict=True)
            if name in before and name in after
        ]
        if len(pairs) < MIN_TASKS:
            continue
        gains, before = np.array([b - a for a, b in pairs]), np.array([a for a, _ in pairs])
        gain, error = float(gains.mean()), float(gains.std(ddof=1)) / math.sqrt(len(pairs))
        if name in DRIFTS:
            # Inside the mask it is measured to the target where all tasks have one, else to the source.
            known = _is_background(name) or all("edit_psnr" in row for row in base if name in row)
            found += _drift(
                name,
                float(before.mean()),
                gain,
                error,
                float(before.std(ddof=1)),
                step,
                "held-out edits",
                "with the base",
                known,
            )
            continue
        psnr = name.endswith("psnr")
        allowed = FALL_DECIBEL if psnr else FALL_SHARE * abs(float(before.mean()))
        if -gain > allowed and -gain > ERRORS * error:
            unit = " dB" if psnr else ""
            found.append(
                _Found(
                    excess=-gain / allowed,
                    alarm=Alarm(
                        name,
                        step,
                        -gain,
                        (
                            f"step {step}: {name} on the held-out tasks fell by {-gain:.3g} ± {error:.2g}{unit} "
                            "from the base's "
                            f"{before.mean():.3g}{unit}{_rise(*rewards)}. {_advice(name)}"
                        ),
                    ),
                )
            )
    return found


def _advice(name: str) -> str:
    if _is_background(name):
        return (
            "The editor changes what lies outside the edit mask: look at the gallery, raise "
            "algorithm.preservation.background_weight, or lower learner.optimizer.lr."
        )
    return (
        "The rewards do not measure the edit: look at the gallery, change rewards.weights, or lower "
        "learner.optimizer.lr."
    )


def _rise(first: Sequence[float], last: Sequence[float]) -> str:
    """Words for a reward that rose beyond the noise between steps; none where it did not, or is normalised to zero."""
    if min(len(first), len(last)) < 2:
        return ""
    rise = float(np.mean(last) - np.mean(first))
    noise = math.sqrt(np.var(first, ddof=1) / len(first) + np.var(last, ddof=1) / len(last))
    return f" while the training reward rose from {np.mean(first):.3g} to {np.mean(last):.3g}" if rise > noise else ""


def _drift(
    name: str, before: float, shift: float, error: float, sd: float, step: int, what: str, when: str, known: bool
) -> list[_Found]:
    """An alarm where the shift from `before` is beyond `SHIFT` standard deviations, its error, and what can be seen. A
    cast that fades is none, nor is any drift that does where the right look is `known`, so that it is 0 there."""
    size = shift if name.endswith("cast_drift") else abs(shift)
    fades = known and abs(before + shift) < abs(before)
    where, look = name.removesuffix("_drift").split("_")
    allowed = max(SHIFT * sd, VISIBLE[look])
    if fades or not (size > allowed and size > ERRORS * error):
        return []
    key = "velocity_weight" if where == "edit" else "background_weight"
    return [
        _Found(
            excess=size / allowed,
            alarm=Alarm(
                name,
                step,
                shift,
                (
                    f"step {step}: the {look} of {what} {'inside' if where == 'edit' else 'outside'} the edit "
                    "mask has shifted by "
                    f"{shift:+.3g}, more than it varied {when} (±{sd:.2g}): the editor's look drifts. Raise "
                    f"algorithm.preservation.{key}, or lower learner.optimizer.lr."
                ),
            ),
        )
    ]


def _is_background(name: str) -> bool:
    """Whether a metric is one of what lies outside the mask, where the source is right."""
    return name.startswith("background_")


def _largest(drifts: Sequence[_Found]) -> list[Alarm]:
    """The worst drift inside the mask, and that outside: where the look drifts, much of it does."""
    worst: dict[str, _Found] = {}
    for one in drifts:
        where = one.alarm.metric.partition("_")[0]
        if where not in worst or one.excess > worst[where].excess:
            worst[where] = one
    return [one.alarm for one in worst.values()]


def _share(values: Sequence[float], most: float) -> float:
    return float(np.mean([value <= most for value in values]))


def _means(groups: Sequence[Group], name: str) -> list[float]:
    return [float(np.mean(group[name])) for group in groups if group.get(name)]
