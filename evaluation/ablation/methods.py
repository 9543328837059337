"""Every method beside every other, twice: at equal rollouts, and at equal CPU seconds of training.

    python -m evaluation.ablation methods --jobs 2 --cluster.mode inline --learner.steps 40

At equal rollouts all rows have as many candidates as the reference row. At equal CPU seconds each row has as many
optimizer steps as fit into the CPU seconds that the reference row spends on rollouts and updates; what a group of each
row costs is measured in this process beforehand, all rows in turns. Rows are those of `evaluation.tune` where it has
searched them, each at its own best learning rate found with the same budget on validation scenes, else their presets;
the report says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from rich.console import Console

from configs.layers import preset_names
from configs.load import load_config
from configs.schema import RunConfig, ShapesData
from evaluation.ablation.equal_cpu import (
    GroupSeconds,
    Measure,
    calibrated,
    steps_at_equal_cpu,
    steps_at_equal_rollouts,
)
from evaluation.ablation.own_reward import own_rewards
from evaluation.ablation.trained import Trained, parser, train, typed, write_report
from evaluation.plots import check_plots, plot_frontier
from evaluation.row_files import tuned_rows
from evaluation.runs import (
    AblationError,
    Ended,
    RowSpec,
    Runner,
    check_writable,
    run_process,
    runs_ended_in_words,
)
from evaluation.speed.methods import MethodCost, measure_costs, method_types
from rewards.pool import weighted
from rewards.scorers import SCORERS

REFERENCE = "rc_grpo"
"""Default row whose rollouts and CPU seconds the others are given."""
OURS = "locus"
"""Default row that every other one is compared with."""
REPETITIONS = 9
"""Of the calibration."""


def method_rows() -> list[str]:
    """The reference, and every preset of the benchmark that is named after a method, or after one with a suffix."""
    types = method_types()
    named = [name for name in preset_names() if any(name == one or name.startswith(f"{one}_") for one in types)]
    on_shapes = [name for name in named if isinstance(load_config(["--config", name]).data, ShapesData)]
    return [REFERENCE, *(name for name in on_shapes if name != REFERENCE)]


def with_steps(specs: Sequence[RowSpec], steps: Mapping[str, int]) -> list[RowSpec]:
    """The rows with their numbers of optimizer steps."""
    return [replace(one, flags=(*one.flags, "--learner.steps", str(steps[one.label]))) for one in specs]


def check_comparable(configs: Mapping[str, RunConfig]) -> None:
    """
    Raises:
        AblationError: when rows train another editor or on other data, or rewards wait for something outside the
            process that measures what a group costs.
    """
    (first, one), *others = configs.items()
    for name, other in others:
        for section in ("editor", "data"):
            if getattr(other, section) != getattr(one, section):
                raise AblationError(
                    f"--rows: expected rows that train the same editor on the same data, got another {section} in "
                    f"{name} than in {first}; leave one of them out."
                )
    for name, config in configs.items():
        waiting = sorted(set(weighted(config.rewards)) - set(SCORERS))
        if waiting:
            raise AblationError(
                f"--rows: {name} is rewarded by {waiting[0]}, which waits for another process or a model, and CPU "
                f"seconds of such rows are not comparable; expected rewards among {', '.join(SCORERS)}."
            )


def costs_here(configs: Mapping[str, RunConfig], repetitions: int) -> Mapping[str, MethodCost]:
    """What a group of each row costs in this process."""
    from learner.quiet import quiet_libraries

    quiet_libraries()
    return measure_costs(configs, repetitions)[0]


def main(arguments: Sequence[str], runner: Runner = run_process, measure: Measure = costs_here) -> int:
    """Run both comparisons and write rollouts.* and cpu.*; 0 if all runs finished, with whatever outcome."""
    flags = parser("methods", "Every method, at equal rollouts and at equal CPU seconds.", "runs/methods")
    flags.add_argument("--rows", nargs="+", help="presets or YAML files (default: every method's preset)")
    flags.add_argument(
        "--reference", default=REFERENCE, help="row whose rollouts and CPU seconds the others get (default %(default)s)"
    )
    flags.add_argument("--against", default=OURS, help="row that the others are compared with (default %(default)s)")
    flags.add_argument(
        "--repetitions", type=int, default=REPETITIONS, help="of the calibration of costs (default %(default)s)"
    )
    options, overrides = flags.parse_known_args(arguments)
    console = Console(highlight=False)
    try:
        with runs_ended_in_words(console):
            check_plots()
            specs, notes = tuned_rows(options.rows or method_rows(), options.tuned)
            labels = [one.label for one in specs]
            for flag, name in (("--reference", options.reference), ("--against", options.against)):
                if name not in labels:
                    raise AblationError(f"{flag}: expected one of the rows {', '.join(labels)}, got {name}.")
            configs = {one.label: load_config(["--config", one.config, *overrides, *one.flags]) for one in specs}
            check_comparable(configs)
            check_writable(options.out, "--out")
            costs = calibrated(options.out, configs, options.repetitions, measure)
            by_rollouts = steps_at_equal_rollouts(configs, options.reference)
            by_cpu = steps_at_equal_cpu(configs, costs, options.reference)
            rollouts = train(
                with_steps(specs, by_rollouts), options, overrides, runner, console, options.out / "rollouts"
            )
            differing = [one for one in with_steps(specs, by_cpu) if by_cpu[one.label] != by_rollouts[one.label]]
            more = train(differing, options, overrides, runner, console, options.out / "cpu")
            cpu = together(labels, rollouts, more)
    except Ended as ended:
        return ended.status
    pairs: list[tuple[str | None, str]] = [(name, options.against) for name in labels if name != options.against]
    for name, title, trained, steps in (
        ("rollouts", "Methods at equal rollouts", rollouts, by_rollouts),
        ("cpu", "Methods at equal CPU seconds", cpu, by_cpu),
    ):
        write_report(
            console,
            options.out,
            title,
            trained,
            typed("methods", arguments),
            pairs,
            {
                "Steps": _steps_in_words(steps, costs, configs),
                "Gain of every row in its own reward, on held-out scenes": own_rewards(trained, configs),
                "Rows": notes,
            },
            name,
            (f"{name}_frontier.png",),
            steps=steps,
            group_seconds={label: asdict(cost) for label, cost in costs.items()},
        )
        plot_frontier(options.out / f"{name}_frontier.png", trained.rows, "background_psnr", "edit_score", title)
    return 0


def together(labels: Sequence[str], first: Trained, instead: Trained) -> Trained:
    """The runs of `instead`, and for rows that it lacks those of `first`."""
    replaced = {run.row for run in instead.runs}
    kept = [run for run in first.runs if run.row not in replaced]
    runs = sorted([*instead.runs, *kept], key=lambda run: labels.index(run.row))
    # Names of runs are equal in both.
    return Trained(runs, {run.name: (instead if run.row in replaced else first).done[run.name] for run in runs})


def _steps_in_words(
    steps: Mapping[str, int], costs: Mapping[str, GroupSeconds], configs: Mapping[str, RunConfig]
) -> list[str]:
    found = []
    for name, count in steps.items():
        cost = costs[name]
        seconds = count * configs[name].learner.groups_per_step * cost.total
        found.append(
            f"{name}: {count} steps, {seconds:.0f} CPU seconds of rollouts ({1e3 * cost.rollout:.0f} ms a group) and "
            f"updates ({1e3 * cost.update:.0f} ms a group)"
        )
    return found
