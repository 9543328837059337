"""Figure 5 of RC-GRPO-Editing without training: what perturbation inside the mask does to groups, and its variance law.

    python -m evaluation.ablation noise
    python -m evaluation.ablation noise --tasks 256 --seed 1

Groups of the base editor for the same tasks and seeds under global perturbation and under RDP: distribution functions
of the background drift and of the spread of rewards within groups, and the ratio of variances of a linear reward of the
background against (alpha_base / sigma)^2, on noise alone and through the editor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from actors.rollout import roll_out
from configs.edit_signal import edit_rewards
from configs.load import config_hash, load_config
from configs.method_families import AnchorMethod
from configs.rewards import RewardsConfig
from configs.schema import RunConfig
from editing.data import open_tasks
from editing.editors.policy import open_policy
from evaluation.ablation.trained import typed
from evaluation.ablation.untrained import interval_words, leased, parser, write_page
from evaluation.ablation.variance import (
    background_drift,
    background_spread,
    contains,
    exponentiated,
    predicted_ratio,
    toy_ratio,
)
from evaluation.plots import check_plots, plot_ecdfs
from evaluation.runs import AblationError, Ended, check_writable, runs_ended_in_words
from evaluation.statistics import Interval, spread, student_interval
from learner.quiet import quiet_libraries
from rewards.compose import composed
from rewards.pool import RewardPool, at_once
from rewards.result import GroupScores

ROWS = ("global", "rdp")
TASKS = 128
QUANTITIES = {
    "drift": "background drift, share of the range",
    "reward_std": "std of the reward in a group",
    "edit_std": "std of its part for the edit",
    "rest_std": "std of its other part",
    "spread": "variance of background latents",
}


@dataclass(frozen=True)
class GroupSpread:
    """How far the candidates of one group lie apart: `background_drift`, the population std of their reward and of its
    two parts (`rewards.compose`), and `background_spread`."""

    drift: float
    reward_std: float
    edit_std: float
    rest_std: float
    spread: float


def reward_spreads(scores: GroupScores, rewards: RewardsConfig) -> tuple[float, float, float]:
    """Population std of the valid candidates' reward, of the weighted sum of its components for the edit, and of that
    of the others."""
    (whole,) = composed([scores], rewards)
    parts = [np.zeros(len(whole.valid)), np.zeros(len(whole.valid))]
    edit = edit_rewards(rewards)
    for name, weight in rewards.weights.items():
        if weight != 0:
            values = np.array([0.0 if score.value is None else score.value for score in scores.components[name]])
            parts[0 if name in edit else 1] += weight * values
    total, first, second = (float(np.std(part[whole.valid])) for part in (whole.rewards, *parts))
    return total, first, second


def measured(
    configs: Mapping[str, RunConfig], count: int
) -> tuple[dict[str, list[GroupSpread]], list[NDArray[np.float32]], int]:
    """Per row the spreads of its groups, task by task, in the same order; the tasks' token masks [N]; and the latents'
    channels. Tasks without background are left out."""
    first = next(iter(configs.values()))
    torch.set_num_threads(first.cluster.threads_per_process)
    editor, tasks = open_policy(first.editor, first.seed), open_tasks(first)
    pools = {name: RewardPool(config.rewards, tasks) for name, config in configs.items()}
    found: dict[str, list[GroupSpread]] = {name: [] for name in configs}
    masks, channels = [], 0
    for task, lease in leased(first, tasks, count):
        condition = editor.encode(task)
        mask = editor.token_mask(task.edit_mask, condition, first.token_masks.noise).cpu().numpy()
        if task.edit_mask.all() or mask.min() == 1:
            continue
        masks.append(mask)
        for name, config in configs.items():
            group = roll_out(editor, task, lease, config, config_hash(config))
            spreads = reward_spreads(at_once(pools[name].score(group)), config.rewards)
            final = group.candidates[-1]
            channels = final.shape[-1]
            drift = background_drift(group.images, task.edit_mask)
            found[name].append(GroupSpread(drift, *spreads, background_spread(final, mask)))
    return found, masks, channels


def check(configs: Mapping[str, RunConfig], count: int) -> None:
    """
    Raises:
        AblationError: when groups would not say what they are asked.
    """
    if count < 2:
        raise AblationError(f"--tasks: expected at least 2, for an interval, got {count}.")
    for name, config in configs.items():
        method, steps = config.algorithm, config.sampler.steps
        if not isinstance(method, AnchorMethod) or method.kept_steps(steps)[-1] != steps - 1:
            raise AblationError(
                f"{name}: expected anchors whose last trained step is the sampler's last, {steps - 1}, so that groups "
                "keep their final latents; set algorithm.trained_steps."
            )
        if config.sampler.group_size < 3 or method.alpha_base == 0:
            raise AblationError(
                f"{name}: expected sampler.group_size of at least 3 and algorithm.alpha_base above 0, for a variance "
                f"of the perturbed candidates, got {config.sampler.group_size} and {method.alpha_base:g}."
            )


@dataclass(frozen=True)
class VarianceLaw:
    """The strengths of a comparison, the ratio that they predict, and what a linear toy reward measures."""

    alpha_base: float
    sigma: float
    predicted: float
    toy: Interval


def variance_law(configs: Mapping[str, RunConfig], masks: Sequence[NDArray[np.float32]], channels: int) -> VarianceLaw:
    """The law at the rows' strengths, measured on noise for the masks of tasks [N]."""
    rdp, everywhere = configs["rdp"], configs["global"]
    alpha_base, sigma = rdp.rollout_method.alpha_base, everywhere.rollout_method.alpha_base
    toy = toy_ratio(
        [torch.from_numpy(mask) for mask in masks], channels, rdp.sampler.group_size, alpha_base, sigma, rdp.seed
    )
    return VarianceLaw(alpha_base, sigma, predicted_ratio(alpha_base, sigma), toy)


def ratios_of(found: Mapping[str, Sequence[GroupSpread]]) -> dict[str, Interval]:
    """RDP over global perturbation for every quantity: the geometric mean over tasks where both are above zero."""
    ratios = {}
    for name in QUANTITIES:
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(found["global"], found["rdp"], strict=True)]
        if logs := [math.log(rdp / everywhere) for everywhere, rdp in pairs if everywhere > 0 and rdp > 0]:
            ratios[name] = exponentiated(student_interval(logs))
    return ratios


def in_words(law: VarianceLaw, ratios: Mapping[str, Interval]) -> list[str]:
    """The law on noise and through the editor, then the other ratios."""
    sentences = [
        f"A linear reward of the background's noise varies in RDP's groups by {interval_words(law.toy)} of its "
        f"variance under global perturbation; predicted (alpha_base / sigma)² = ({law.alpha_base:g} / {law.sigma:g})² "
        f"= {law.predicted:.3g}, {'within' if contains(law.toy, law.predicted) else 'outside'} the interval."
    ]
    if (latents := ratios.get("spread")) is not None:
        sentences.append(
            f"Linear rewards of the background's final latents, through the editor: {interval_words(latents)}, "
            f"{'with' if contains(latents, law.predicted) else 'without'} the prediction in the interval."
        )
    return sentences + [
        f"RDP over global, geometric mean over tasks, {QUANTITIES[name]}: {interval_words(ratio)}."
        for name, ratio in ratios.items()
        if name != "spread"
    ]


def table_lines(found: Mapping[str, Sequence[GroupSpread]], name: str) -> list[list[str]]:
    """A quantity's lines of the table, one per row."""
    lines = []
    for row, groups in found.items():
        values = [getattr(one, name) for one in groups]
        quartiles = spread(values)
        middle = f"{quartiles.low:.3g} … {quartiles.high:.3g}"
        mean = interval_words(student_interval(values))
        lines.append([QUANTITIES[name], row, str(len(values)), f"{quartiles.median:.3g}", middle, mean])
    return lines


def main(arguments: Sequence[str]) -> int:
    """Measure and write noise.md, noise.json and noise.png; 0 if everything was measured."""
    options, overrides = parser(
        "noise", "Background drift and reward spread of groups, global perturbation against RDP.", TASKS
    ).parse_known_args(arguments)
    console = Console(highlight=False)
    try:
        with runs_ended_in_words(console):
            check_plots()
            configs = {row: load_config(["--config", row, *overrides]) for row in ROWS}
            check(configs, options.tasks)
            check_writable(options.out, "--out")
            quiet_libraries()
            found, masks, channels = measured(configs, options.tasks)
    except Ended as ended:
        return ended.status
    law = variance_law(configs, masks, channels)
    ratios = ratios_of(found)
    sentences = in_words(law, ratios)
    cells = [line for name in QUANTITIES for line in table_lines(found, name)]
    for sentence in sentences:
        console.print(f"- {sentence}", markup=False)
    write_page(
        options.out,
        "noise",
        "Groups under global perturbation and under RDP",
        typed("noise", arguments),
        "The base editor's groups, the same tasks and seeds for both rows; nothing is trained. The reward is the rows' "
        "own. Intervals: 95 %, Student's t over tasks.",
        ("quantity", "row", "groups", "median", "quartiles", "mean (95 % interval)"),
        cells,
        sentences,
        {
            "groups": {row: [asdict(one) for one in groups] for row, groups in found.items()},
            "config_hashes": {row: config_hash(config) for row, config in configs.items()},
            "variance_law": asdict(law),
            "ratios": {name: asdict(ratio) for name, ratio in ratios.items()},
        },
    )
    panels = {
        label: {row: [getattr(one, name) for one in groups] for row, groups in found.items()}
        for name, label in QUANTITIES.items()
        if name != "spread"
    }
    plot_ecdfs(options.out / "noise.png", panels, f"{len(masks)} groups each, untrained")
    console.print(f"{options.out / 'noise'}.md, .json and .png contain these numbers", markup=False)
    return 0
