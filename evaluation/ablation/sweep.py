"""Where perturbation inside the mask beats global perturbation, and where not: one setting after another.

    python -m evaluation.ablation sweep --axes judge_noise alpha_edit --jobs 2 --cluster.mode inline --learner.steps 40

At every value of a setting both rows are trained over the same seeds; what is compared is RDP minus global, paired by
seed. `judge_noise` adds noise of that standard deviation to the reward, different for every image, as judges that
sample their responses do. `group_size` keeps the number of candidates per optimizer step. `mask_margin` grows the masks
by so many pixels, up to where RDP perturbs most of the image. `alpha_edit` is the strength inside the mask, and
everywhere for the global row. A value that is the rows' own belongs to every axis, and is trained once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from rich.console import Console

from configs.load import load_config
from configs.schema import RunConfig, ShapesData
from evaluation.ablation.trained import Trained, parser, train, typed
from evaluation.plots import plot_curves
from evaluation.report import MARKS, digits_of, interval_text, probability
from evaluation.row_files import tuned_rows
from evaluation.runs import AblationError, Ended, RowSpec, Runner, run_process, runs_ended_in_words
from evaluation.significance import RowDifference, row_differences
from evaluation.statistics import Interval

BEFORE, AFTER = "global", "rdp"
SHOWN = ("edit_score", "editscore_truth", "edit_psnr", "background_psnr")
NOISE = "judge_noise"
UNIFORM = math.sqrt(12)
"""1 / standard deviation of the uniform noise of `evaluation.controls`."""


@dataclass(frozen=True)
class Axis:
    """A setting that is swept.

    Attributes:
        values: in order.
        own: the value of a row's configuration.
        flags: those that set a value in a row.
    """

    values: tuple[float, ...]
    own: Callable[[RunConfig], float]
    flags: Callable[[RunConfig, float], list[str]]


def _yaml(value: Mapping[str, str | float]) -> str:
    text: str = yaml.safe_dump(dict(value), default_flow_style=True, width=10**6)
    return text.strip()


def _noise_flags(config: RunConfig, value: float) -> list[str]:
    weights = {**config.rewards.weights, NOISE: value * UNIFORM}
    return ["--rewards.scorers", _yaml({NOISE: "evaluation.controls:noise"}), "--rewards.weights", _yaml(weights)]


def _group_flags(config: RunConfig, value: float) -> list[str]:
    candidates = config.sampler.group_size * config.learner.groups_per_step
    groups = max(1, round(candidates / value))
    return ["--sampler.group_size", f"{value:g}", "--learner.groups_per_step", str(groups)]


def _alpha_flags(config: RunConfig, value: float) -> list[str]:
    flags = ["--algorithm.alpha_edit", f"{value:g}"]
    everywhere = config.rollout_method.alpha_base == config.rollout_method.alpha_edit
    return [*flags, "--algorithm.alpha_base", f"{value:g}"] if everywhere else flags


def _margin(config: RunConfig) -> float:
    assert isinstance(config.data, ShapesData)
    return config.data.mask_margin


AXES: Mapping[str, Axis] = {
    NOISE: Axis((0.0, 0.1, 0.4), lambda _: 0.0, _noise_flags),
    "group_size": Axis((4, 8, 16), lambda config: config.sampler.group_size, _group_flags),
    "mask_margin": Axis((0, 4, 16), _margin, lambda _, value: ["--data.mask_margin", f"{value:g}"]),
    "alpha_edit": Axis((0.4, 0.8, 1.0), lambda config: config.rollout_method.alpha_edit, _alpha_flags),
}


def label(row: str, axis: str, value: float, config: RunConfig) -> str:
    """The name of a row at a value; the row's own name at its own value."""
    return row if value == AXES[axis].own(config) else f"{row}-{axis}-{value:g}"


def swept(rows: Sequence[RowSpec], configs: Mapping[str, RunConfig], axes: Sequence[str]) -> list[RowSpec]:
    """Every row at every value of the axes, each once."""
    found: dict[str, RowSpec] = {}
    for axis in axes:
        for value in AXES[axis].values:
            for row in rows:
                config = configs[row.label]
                name = label(row.label, axis, value, config)
                flags = () if name == row.label else tuple(AXES[axis].flags(config, value))
                found.setdefault(name, RowSpec(name, row.config, flags))
    return list(found.values())


@dataclass(frozen=True)
class Curve:
    """One axis: per value the two rows' gains by metric, and RDP minus global, with Holm's correction over the values
    of the axis."""

    axis: str
    values: tuple[float, ...]
    gains: Mapping[str, Sequence[Mapping[str, Interval]]]
    differences: Sequence[RowDifference]

    def at(self, metric: str) -> list[RowDifference | None]:
        """The differences in a metric by value; None where neither seed of a pair has it."""
        by_label = {(one.metric, one.after): one for one in self.differences}
        return [by_label.get((metric, f"{value:g}")) for value in self.values]


def curve(axis: str, trained: Trained, configs: Mapping[str, RunConfig]) -> Curve:
    """The axis from its runs."""
    values = AXES[axis].values
    by_row = {row.name: row for row in trained.rows}
    labels = {row: [label(row, axis, value, configs[row]) for value in values] for row in (BEFORE, AFTER)}
    seeds = {name: [trained.done[run.name].gain for run in trained.runs if run.row == name] for name in by_row}
    pairs: list[tuple[str | None, str]] = [(f"{value:g} {BEFORE}", f"{value:g}") for value in values]
    gains = {}
    for (before, after), first, second in zip(pairs, labels[BEFORE], labels[AFTER], strict=True):
        gains[str(before)], gains[after] = seeds[first], seeds[second]
    return Curve(
        axis,
        values,
        {
            row: [{name: found.difference for name, found in by_row[one].metrics.items()} for one in labels[row]]
            for row in labels
        },
        row_differences(gains, pairs, SHOWN),
    )


def in_words(found: Curve) -> list[str]:
    """A sentence per metric: where RDP is better, where worse, where neither was found."""
    sentences = []
    for metric in SHOWN:
        where: dict[int, list[str]] = {1: [], -1: [], 0: []}
        for value, one in zip(found.values, found.at(metric), strict=True):
            if one is not None:
                where[one.sign].append(f"{value:g}")
        parts = [
            f"{words} at {', '.join(where[sign])}"
            for sign, words in ((1, "RDP above global"), (-1, "below it"), (0, "not told apart"))
            if where[sign]
        ]
        if parts:
            sentences.append(f"{found.axis}, {metric}: {'; '.join(parts)}.")
    return sentences


def page(command: Sequence[str], curves: Sequence[Curve], notes: Sequence[str]) -> str:
    """The Markdown page of all axes."""
    lines = ["# Where RDP beats global perturbation", "", f"`{' '.join(command)}`", ""]
    lines += [
        "RDP minus global perturbation in gains over the base, paired by seed; 95 % intervals are Student's t over "
        "seeds, p is corrected by Holm's procedure over the values of an axis, ▲ and ▼ where it is below .05.",
        "",
    ]
    for found in curves:
        lines += [f"## {found.axis}", "", f"| {found.axis} | metric | seeds | difference | 95 % interval | p | |"]
        lines += ["|---:|---|---:|---:|---:|---:|---|"]
        for metric in SHOWN:
            for value, one in zip(found.values, found.at(metric), strict=True):
                if one is not None:
                    digits, mine = digits_of(metric), one.difference
                    lines.append(
                        f"| {value:g} | {metric} | {mine.count} | {mine.mean:+.{digits}f} | "
                        f"{interval_text(mine, digits)} | {probability(one.corrected)} | {MARKS[one.sign]} |"
                    )
        lines += ["", *(f"- {sentence}" for sentence in in_words(found)), ""]
        lines += [f"![{found.axis}](sweep_{found.axis}.png)", f"![gains](sweep_{found.axis}_gains.png)", ""]
    return "\n".join([*lines, "## Rows", "", *(f"- {note}" for note in notes)]) + "\n"


def draw(found: Curve, folder: Path) -> None:
    """The plots of an axis: the difference, and the gains of both rows."""
    places = [f"{value:g}" for value in found.values]
    minus = {
        f"{metric}, RDP − global": {"": [None if one is None else one.difference for one in found.at(metric)]}
        for metric in SHOWN
    }
    gains = {
        f"gain in {metric}": {row: [one.get(metric) for one in found.gains[row]] for row in (BEFORE, AFTER)}
        for metric in SHOWN
    }
    title = f"RDP against global perturbation over {found.axis}"
    for panels, name in ((minus, ""), (gains, "_gains")):
        plot_curves(folder / f"sweep_{found.axis}{name}.png", panels, places, found.axis, title, 0.0)


def main(arguments: Sequence[str], runner: Runner = run_process) -> int:
    """Run the sweep and write sweep.md, sweep.json and two plots per axis; 0 if all runs finished."""
    flags = parser("sweep", "RDP against global perturbation, over one setting after another.", "runs/sweep")
    flags.add_argument(
        "--axes", nargs="+", choices=list(AXES), default=list(AXES), help="settings (default: %(default)s)"
    )
    options, overrides = flags.parse_known_args(arguments)
    console = Console(highlight=False)
    try:
        with runs_ended_in_words(console):
            rows, notes = tuned_rows((BEFORE, AFTER), options.tuned)
            configs = {row.label: load_config(["--config", row.config, *overrides]) for row in rows}
            check(configs)
            trained = train(swept(rows, configs, options.axes), options, overrides, runner, console)
    except Ended as ended:
        return ended.status
    curves = [curve(axis, trained, configs) for axis in options.axes]
    for found in curves:
        draw(found, options.out)
        console.print(*in_words(found), sep="\n", markup=False)
    command = typed("sweep", arguments)
    (options.out / "sweep.md").write_text(page(command, curves, notes), encoding="utf-8")
    report = {"command": command, "confidence": 0.95, "curves": [asdict(found) for found in curves], "rows": notes}
    (options.out / "sweep.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    console.print(f"{options.out / 'sweep.md'}, sweep.json and plots contain these numbers", markup=False)
    return 0


def check(configs: Mapping[str, RunConfig]) -> None:
    """
    Raises:
        AblationError: when flags have made the rows something else than the sweep compares.
    """
    before, after = configs[BEFORE], configs[AFTER]
    for name, config in configs.items():
        if not isinstance(config.data, ShapesData) or not config.data.held_out_tasks:
            raise AblationError(
                f"{name}: expected data.type shapes and data.held_out_tasks above 0, whose truth the sweep compares by."
            )
    everywhere, inside = before.rollout_method, after.rollout_method
    if everywhere.alpha_base != everywhere.alpha_edit or inside.alpha_base >= inside.alpha_edit:
        raise AblationError(
            f"algorithm.alpha_base: expected that of {BEFORE} equal to its alpha_edit and that of {AFTER} below it, "
            f"got {everywhere.alpha_base:g} and {inside.alpha_base:g}; leave these flags out."
        )
