"""Whether every row raises what it was trained for."""

from __future__ import annotations

from collections.abc import Mapping

from configs.schema import RunConfig
from evaluation.ablation.trained import Trained
from evaluation.report import interval_text
from evaluation.statistics import student_interval


def own_rewards(trained: Trained, configs: Mapping[str, RunConfig]) -> list[str]:
    """A sentence per row: what it gained in its own reward over the base, on held-out scenes, over its seeds. The
    reward is the weighted sum of the components that held-out scenes are measured by, in their own units."""
    sentences = []
    for row in trained.rows:
        weights = {name: weight for name, weight in configs[row.name].rewards.weights.items() if weight != 0}
        seeds = [trained.done[run.name].gain for run in trained.runs if run.row == row.name]
        known = [name for name in weights if any(name in gain for gain in seeds)]
        sums = [
            sum(weights[name] * gain[name] for name in known) for gain in seeds if known and set(known) <= set(gain)
        ]
        if not sums:
            sentences.append(f"{row.name}: not measured ({row.unusable or 'none of its rewards is'}).")
            continue
        found, rest = student_interval(sums), sorted(set(weights) - set(known))
        sentences.append(
            f"{row.name}: {found.mean:+.4f} ({interval_text(found, 4)}) in {' + '.join(known)}"
            + (f", without {', '.join(rest)}" if rest else "")
            + ("." if found.sign > 0 else "; it is not shown to rise.")
        )
    return sentences
