"""Whether every row raises what it was trained for.

A reward that is a plain weighted sum of components has one number, the sum of what they gained. One that is
standardised over a step, or gated (`rewards.composition`), is no function of means over scenes: each of its components
is told by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from configs.rewards import RewardsConfig
from configs.schema import RunConfig
from evaluation.ablation.trained import Trained
from evaluation.report import interval_text
from evaluation.statistics import Interval, student_interval


def own_rewards(trained: Trained, configs: Mapping[str, RunConfig]) -> list[str]:
    """A sentence per row: what it gained in its own reward over the base, on held-out scenes, over its seeds, in the
    components' own units."""
    sentences = []
    for row in trained.rows:
        rewards = configs[row.name].rewards
        weights = {name: weight for name, weight in rewards.weights.items() if weight != 0}
        seeds = [trained.done[run.name].gain for run in trained.runs if run.row == row.name]
        known = [name for name in weights if any(name in gain for gain in seeds)]
        whole = [gain for gain in seeds if known and set(known) <= set(gain)]
        if not whole:
            sentences.append(f"{row.name}: not measured ({row.unusable or 'none of its rewards is'}).")
            continue
        rest = ", ".join(sorted(set(weights) - set(known)))
        sentences.append(f"{row.name}: {_gains(rewards, known, whole)}" + (f", without {rest}." if rest else "."))
    return sentences


def _gains(rewards: RewardsConfig, names: Sequence[str], seeds: Sequence[Mapping[str, float]]) -> str:
    if rewards.normalisation == "none" and rewards.composition == "sum":
        gain = student_interval([sum(rewards.weights[name] * one[name] for name in names) for one in seeds])
        return _told(gain, " + ".join(names))
    how = "gated" if rewards.composition == "gated" else "standardised in training"
    each = (_told(student_interval([one[name] for one in seeds]), name) for name in names)
    return f"{how}, so by component: {'; '.join(each)}"


def _told(gain: Interval, what: str) -> str:
    shown = f"{gain.mean:+.4f} ({interval_text(gain, 4)}) in {what}"
    return shown if gain.sign > 0 else f"{shown}, which is not shown to rise"
