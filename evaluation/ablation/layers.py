"""Which blocks' attention concentration tells good edits from bad ones: RC-GRPO-Editing's diagnostic D.1.

    python -m evaluation.ablation layers
    python -m evaluation.ablation layers --row global --tasks 256

For every block the AUROC of ACD (Eq. 18 of arXiv 2604.09386, mean over the sampler's steps) for the top against the
bottom tercile of candidates by `editscore_truth`, EditScore's formula from ground truth. Terciles are those of one
task's group and the AUROC is averaged over tasks: ACD's scale depends on the size of the mask, so that candidates of
different tasks are not comparable. .5 says nothing, 1 that more concentrated candidates are always better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from configs.load import config_hash, load_config
from configs.schema import RunConfig, ShapesData
from editing.data import open_tasks
from editing.editors.base import Editor
from editing.editors.policy import open_policy
from editing.flow import integrate
from editing.rollout_spec import rollout_spec
from editing.task import EditTask, Image
from editing.trajectory import Lease
from evaluation.ablation.trained import typed
from evaluation.ablation.untrained import interval_words, leased, parser, write_page
from evaluation.plots import check_plots, plot_curves
from evaluation.report import probability
from evaluation.runs import AblationError, Ended, check_writable, runs_ended_in_words
from evaluation.significance import LEVEL, holm, paired_probability
from evaluation.statistics import Interval, student_interval
from learner.quiet import quiet_libraries
from rewards.scorer_api import ScoreInput
from rewards.scorers import SCORERS

ROW = "rdp_acd"
TASKS = 128
GROUP_SIZE = ("--sampler.group_size", "12")
"""Four candidates in a tercile, unless a flag says otherwise."""
SCORE = "editscore_truth"
CHANCE = 0.5


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The probability that a positive is larger than a negative; ties count half.

        (3, 2) against (2, 1)  ->  (1 + 1 + .5 + 1) / 4 = .875

    Raises:
        ValueError: for no positives or no negatives.
    """
    if not positive or not negative:
        raise ValueError(f"expected values on both sides, got {len(positive)} and {len(negative)}.")
    wins = sum((a > b) + 0.5 * (a == b) for a in positive for b in negative)
    return float(wins) / (len(positive) * len(negative))


def terciles(scores: Sequence[float]) -> tuple[list[int], list[int]] | None:
    """The candidates of the top and of the bottom third (rounded down) by score; None where those cannot be told apart:
    fewer than three candidates, or the lowest of the top is no higher than the highest of the bottom."""
    size = len(scores) // 3
    order = sorted(range(len(scores)), key=scores.__getitem__)
    bottom, top = order[:size], order[len(scores) - size :]
    if size == 0 or scores[top[0]] <= scores[bottom[-1]]:
        return None
    return top, bottom


def observed(editor: Editor, task: EditTask, lease: Lease, config: RunConfig) -> tuple[Image, NDArray[np.float32]]:
    """The images uint8 [G, H, W, 3] of a rollout, and their ACD by block, float32 [L, G]."""
    condition, spec = editor.encode(task), rollout_spec(config, lease)
    recipe = spec.recipe(lease)
    drawn = recipe.draw(
        editor.token_mask(task.edit_mask, condition, config.token_masks.noise), condition.source_latents.shape[-1]
    )
    attended = editor.token_mask(task.edit_mask, condition, config.token_masks.attention)
    with torch.inference_mode(), editor.attention_probe(attended, editor.attention_blocks) as probe:
        final = integrate(
            lambda x, sigma: editor.velocity(x, sigma, condition),
            drawn.to(editor.device),
            editor.sigmas(spec.steps, condition),
            spec.solver,
            added=spec.added(recipe, drawn),
            shared=spec.shared,
        ).final
        acd = probe.take_blocks().cpu().numpy()
        return editor.decode(final, condition), acd


@dataclass(frozen=True)
class Layer:
    """One block, or the mean of some: the AUROC over tasks, and its probability under chance after Holm's correction
    over the blocks; None for a single task."""

    name: str
    auroc: Interval
    corrected: float | None

    @property
    def informative(self) -> bool:
        """Whether the corrected test tells the AUROC from chance."""
        return self.corrected is not None and self.corrected < LEVEL


def layers_of(by_block: Mapping[str, Sequence[float]]) -> list[Layer]:
    """The blocks by name, with one AUROC per task each."""
    tests = [paired_probability([value - CHANCE for value in values]) for values in by_block.values()]
    corrected = iter(holm([p for p in tests if p is not None]))
    return [
        Layer(name, student_interval(values), None if p is None else next(corrected))
        for (name, values), p in zip(by_block.items(), tests, strict=True)
    ]


def measured(config: RunConfig, count: int) -> tuple[dict[str, list[float]], dict[str, list[float]], int]:
    """The AUROC per task of every block, in execution order; of the mean over all blocks and over those that the reward
    takes; and the number of tasks whose terciles cannot be told apart."""
    torch.set_num_threads(config.cluster.threads_per_process)
    editor, tasks = open_policy(config.editor, config.seed), open_tasks(config)
    blocks, last = editor.attention_blocks, config.rewards.acd_blocks
    single: dict[str, list[float]] = {f"{number + 1}": [] for number in range(blocks)}
    means: dict[str, list[float]] = {"all blocks": [], f"last {last} blocks, as rewarded": []}
    left_out = 0
    for task, lease in leased(config, tasks, count):
        images, acd = observed(editor, task, lease, config)
        scores = [score.value for score in SCORERS[SCORE](ScoreInput(task, images, None))]
        known = [index for index, value in enumerate(scores) if value is not None]
        thirds = terciles([value for value in scores if value is not None])
        if thirds is None:
            left_out += 1
            continue
        top, bottom = ([known[place] for place in third] for third in thirds)
        rows = {
            **dict(zip(single, acd, strict=True)),
            **dict(zip(means, (acd.mean(0), acd[-last:].mean(0)), strict=True)),
        }
        for name, row in rows.items():
            (single if name in single else means)[name].append(auroc(row[top].tolist(), row[bottom].tolist()))
    return single, means, left_out


def in_words(layers: Sequence[Layer]) -> str:
    """What the blocks say, in a sentence."""
    telling = [one for one in layers if one.informative]
    if not telling:
        return "No block's concentration is told from chance, after Holm's correction over the blocks."
    parts = [f"block {one.name} with an AUROC of {interval_words(one.auroc)}" for one in telling]
    return f"Told from chance, after Holm's correction over the blocks: {', '.join(parts)}."


def main(arguments: Sequence[str]) -> int:
    """Measure and write layers.md, layers.json and layers.png; 0 if everything was measured."""
    flags = parser("layers", "AUROC of attention concentration by block, for good against bad edits.", TASKS)
    flags.add_argument(
        "--row", default=ROW, help="preset or YAML file whose rollouts are observed (default %(default)s)"
    )
    options, overrides = flags.parse_known_args(arguments)
    console = Console(highlight=False)
    try:
        with runs_ended_in_words(console):
            check_plots()
            config = load_config(["--config", options.row, *GROUP_SIZE, *overrides])
            if not isinstance(config.data, ShapesData):
                raise AblationError(
                    f"--row: candidates are ranked by {SCORE}, so expected data.type shapes, got {config.data.type}."
                )
            if config.sampler.group_size < 3 or options.tasks < 2:
                raise AblationError(
                    "expected terciles of groups and an interval over tasks, so sampler.group_size of at least 3 and "
                    f"--tasks of at least 2, got {config.sampler.group_size} and {options.tasks}."
                )
            check_writable(options.out, "--out")
            quiet_libraries()
            single, means, left_out = measured(config, options.tasks)
            if options.tasks == left_out:
                raise AblationError(f"no group of {options.tasks} tasks has terciles that differ in {SCORE}.")
    except Ended as ended:
        return ended.status
    layers, together = layers_of(single), layers_of(means)
    sentences = [in_words(layers)]
    if left_out:
        sentences.append(f"{left_out} of {options.tasks} tasks were left out: the scores of their terciles are equal.")
    cells = [
        [one.name, str(one.auroc.count), interval_words(one.auroc), probability(one.corrected)]
        for one in (*layers, *together)
    ]
    for name, _, value, p in cells:
        console.print(f"{name}: {value}, corrected p {p}", markup=False)
    console.print(*sentences, sep="\n", markup=False)
    write_page(
        options.out,
        "layers",
        "Attention concentration by block",
        typed("layers", arguments),
        f"AUROC of ACD for the top against the bottom tercile of a group by {SCORE}, mean over tasks; 95 % intervals, "
        "Student's t over tasks. .5 is chance; corrected: Holm's procedure over the blocks, and over the two means.",
        ("block", "tasks", "AUROC", "corrected p"),
        cells,
        sentences,
        {
            "config_hash": config_hash(config),
            "left_out": left_out,
            "layers": [{**asdict(one), "informative": one.informative} for one in (*layers, *together)],
        },
    )
    plot_curves(
        options.out / "layers.png",
        {"AUROC of ACD": {"": [one.auroc for one in layers]}},
        list(single),
        "block, in execution order",
        f"Good against bad edits, {layers[0].auroc.count} tasks",
        CHANCE,
    )
    console.print(f"{options.out / 'layers'}.md, .json and .png contain these numbers", markup=False)
    return 0
