"""Terminal output: a live table, or one plain line per step where there is no terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from configs.commands import command
from configs.text import counted
from learner.reporting.records import EvaluationRecord, GroupRecord, RunRecord, StepRecord
from rewards.filters import FilterReason

TREND_STEPS = 30
BARS = "▁▂▃▄▅▆▇█"
SECONDS = ("rollout", "update", "publish", "checkpoint")


def amount(name: str, value: float, spread: float | None = None) -> str:
    """A component's value, formatted: `24.53 ± 0.61 dB`, or `0.462 ± 0.120`; more places where these would show zeros,
    as of a scorer of the user's own in small units."""
    places, unit = (2, " dB") if name.endswith("psnr") else (3, "")
    size = max(abs(value), spread or 0.0)
    if 1e-9 < size < 0.5 * 10**-places:
        places = 1 - math.floor(math.log10(size))
    return f"{value:.{places}f}" + ("" if spread is None else f" ± {spread:.{places}f}") + unit


def trend(values: list[float]) -> str:
    """A line of little bars, lowest to highest; equal values give a level line."""
    low, high = min(values), max(values)
    if high == low:
        return BARS[3] * len(values)
    return "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] for value in values)


def clock(seconds: float) -> str:
    """`2:05`, or `1:02:05` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ages(staleness: Mapping[int, int]) -> str:
    """Groups by policy age: `all fresh`, or `0: 10, 1: 2`."""
    if set(staleness) <= {0}:
        return "all fresh"
    return ", ".join(f"{age}: {count}" for age, count in sorted(staleness.items()))


def learner_words(learner: Mapping[str, float]) -> list[str]:
    """The learner's numbers that show at a glance whether the step was sound."""
    words = []
    if "leap_error" in learner:
        words.append(f"policy gate {learner['leap_error']:.1e} of {learner['leap_tolerance']:.1e}")
    if "gradient_norm" in learner:
        words.append(f"gradient {learner['gradient_norm']:.2g}")
    if "background_weight" in learner:
        measured = f" at {learner['background_measured']:.1f} dB" if "background_measured" in learner else ""
        words.append(f"background weight {learner['background_weight']:.2g}{measured}")
    filtered = [
        f"{reason} {count:.0f}" for reason in get_args(FilterReason) if (count := learner.get(f"filtered_{reason}"))
    ]
    words += [f"groups filtered: {', '.join(filtered)}"] * bool(filtered)
    if learner.get("skipped_updates"):
        words.append(f"skipped updates {learner['skipped_updates']:.0f}")
    return words


def judge_words(judge: Mapping[str, float]) -> list[str]:
    """Per judge how fast and how reliable it is, then what the cache saved: `editscore p50 2.1 s, p95 3.4 s,
    errors 0.5%`."""
    words = []
    for name in (key.removesuffix("_in_rotation") for key in judge if key.endswith("_in_rotation")):
        parts = [
            f"{what} {judge[f'{name}_{what}_seconds']:.1f} s"
            for what in ("p50", "p95")
            if f"{name}_{what}_seconds" in judge
        ]
        if f"{name}_error_rate" in judge:
            parts.append(f"errors {judge[f'{name}_error_rate']:.1%}")
        words.append(f"{name} " + (", ".join(parts) or "not asked yet"))
    asked = judge.get("cache_hits", 0) + judge.get("cache_misses", 0)
    if asked and judge["cache_hits"]:
        words.append(f"cache hits {judge['cache_hits'] / asked:.0%}")
    return words


def reward_words(record: StepRecord) -> list[str]:
    """Which candidates and components had nothing to say in a step."""
    words = [f"invalid {', '.join(f'{name} {count}' for name, count in record.invalid.items())}"] * bool(record.invalid)
    words += [f"silent {', '.join(record.silent)}"] * bool(record.silent)
    floored = ", ".join(f"{name} in {count}" for name, count in record.floored.items())
    return [*words, *([f"groups below rewards.floors: {floored}"] if floored else [])]


def shown(record: StepRecord) -> list[str]:
    """The components that a step shows; drifts are in metrics.jsonl, and notified when they matter."""
    return [name for name in record.reward_mean if not name.endswith("_drift")]


def step_line(record: StepRecord, left: float) -> str:
    """One step on one line, for logs."""
    parts = [f"step {record.step}/{record.steps}"]
    parts += [f"{name} {amount(name, record.reward_mean[name], record.reward_std[name])}" for name in shown(record)]
    parts += [
        f"zero variance {record.zero_std_share:.0%}",
        f"age {ages(record.staleness)}",
        f"{record.groups_per_minute:.0f} groups/min",
    ]
    parts += [*learner_words(record.learner), *reward_words(record), *judge_words(record.judge)]
    if record.counters.rejected or record.counters.requeued:
        parts.append(f"rejected {record.counters.rejected}, redone {record.counters.requeued}")
    return " · ".join([*parts, f"left {clock(left)}"])


def live_view(name: str, history: list[StepRecord], left: float) -> RenderableType:
    """The live table of a run; `history` holds the last steps, the newest last."""
    record = history[-1]
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(name, style="bold"),
        ProgressBar(record.steps, record.step, width=32),
        f"step {record.step}/{record.steps}",
        f"left {clock(left)}",
        f"{record.groups_per_minute:.0f} groups/min",
    )
    rewards = Table(box=None, padding=(0, 2), header_style="dim")
    for title, justify in (("reward", "left"), ("mean", "right"), ("± in group", "right"), ("trend", "left")):
        rewards.add_column(title, justify=justify)  # type: ignore[arg-type]
    for component in shown(record):
        mean = record.reward_mean[component]
        past = [step.reward_mean[component] for step in history if component in step.reward_mean]
        rewards.add_row(
            component,
            amount(component, mean),
            amount(component, record.reward_std[component]),
            Text(trend(past), style="cyan"),
        )
    unvaried = Text(
        f"zero-variance groups {record.zero_std_share:.0%}", style="yellow" if record.zero_std_share > 0.5 else ""
    )
    counters = record.counters
    facts = Text("  ·  ").join(
        part
        for part in (
            unvaried,
            Text(f"policy age {ages(record.staleness)}"),
            Text(f"rejected {counters.rejected}, redone {counters.requeued}")
            if (counters.rejected or counters.requeued)
            else None,
            *map(Text, learner_words(record.learner)),
            *(Text(words, style="yellow") for words in reward_words(record)),
            *map(Text, judge_words(record.judge)),
            Text(
                "seconds "
                + ", ".join(f"{phase} {record.seconds[phase]:.1f}" for phase in SECONDS if record.seconds.get(phase))
            ),
        )
        if part is not None
    )
    return Group(head, rewards, Padding(facts, (0, 2)))


HEADLINES = (
    "edit_score",
    "editscore_truth",
    "edit_accuracy",
    "edit_psnr",
    "background_psnr",
    "background_ssim",
    "edit_delta_e",
    "edit_saturation_drift",
    "edit_sharpness_drift",
    "edit_change",
    "background_cast_share",
)
"""Held-out metrics that the tables show, in this order; summary.json and metrics.jsonl have all."""


def headlines(mean: Mapping[str, float]) -> dict[str, float]:
    """The metrics of `HEADLINES` that there are."""
    return {name: mean[name] for name in HEADLINES if name in mean}


def final_table(base: EvaluationRecord | None, final: EvaluationRecord, gain_error: Mapping[str, float]) -> Table:
    """Held-out means, base against trained.

    `gain_error` is the standard error of the difference; both were measured on the same tasks and noise, so it
    is smaller than that of either.
    """
    table = Table(title=f"{counted(final.tasks, 'held-out task')}, mean ± standard error", title_justify="left")
    for title, justify in (("metric", "left"), ("base", "right"), ("trained", "right"), ("difference", "right")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]

    for name, value in headlines(final.mean).items():
        trained = amount(name, value, final.standard_error.get(name))
        if base is None or name not in base.mean:
            table.add_row(name, "–", trained, "")
            continue
        change = value - base.mean[name]
        table.add_row(
            name,
            amount(name, base.mean[name], base.standard_error.get(name)),
            trained,
            Text(
                ("+" if change > 0 else "") + amount(name, change, gain_error.get(name)),
                style=colour(name, base.mean[name], value),
            ),
        )
    return table


def colour(name: str, base: float, trained: float) -> str:
    """Green for a held-out metric that is better than the base's, red for a worse one, none where neither is clear."""
    if name in ("edit_change", "background_cast_share"):
        return ""
    if name.endswith("_drift"):
        better = abs(base) - abs(trained)
    elif name == "edit_delta_e":
        better = base - trained
    else:
        better = trained - base
    return "green" if better > 0 else "red" if better < 0 else ""


WARNINGS = {
    "nothing_learnt": "This run learnt nothing",
    "ruined": "This run ruined its editor; leave its adapter alone",
}
"""What is said of a run whose verdict is not `trained`."""
WAYS_OUT = {
    "nothing_learnt": "where steps were skipped, lower learner.optimizer.lr or editor.lora.alpha; otherwise raise "
    "learner.optimizer.lr, or look whether the rewards of a group differ at all",
    "ruined": "lower learner.optimizer.lr or editor.lora.alpha, or reward or preserve what was lost (rewards.weights, "
    "algorithm.preservation)",
}
"""What to change before the next start."""


def verdict_line(verdict: Mapping[str, Any]) -> str:
    """Warnings to read before using the adapter; empty where nothing speaks against it."""
    said = WARNINGS.get(verdict["outcome"])
    return f"{said}: {'; '.join(verdict['reasons'])}." if said else ""


def next_commands(folder: Path, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what for, what to open or type) of a finished run; an adapter is offered for use unless the verdict, or the want
    of any measurement, speaks against it."""
    outcome, adapter = summary["verdict"]["outcome"], f"{folder}/adapter   (FluxKontextPipeline.load_lora_weights)"
    rows = [("look at", f"{folder}/gallery/index.html")] if (folder / "gallery" / "index.html").exists() else []
    if outcome != "trained":
        rows.append(("to do", WAYS_OUT[outcome]))
    elif not summary["final"]["mean"]:
        rows.append(("adapter", f"{adapter}; not measured: there were no held-out tasks"))
    else:
        rows.append(("try it", command("learner.infer", "--run", folder, "--compare")))
        rows.append(("adapter" if summary["notifications"] else "use it", adapter))
    told = {one["metric"]: one["step"] for one in reversed(summary["notifications"])}
    if told:
        first = ", ".join(f"{metric} (step {step})" for metric, step in sorted(told.items(), key=lambda one: one[1]))
        rows.append(("warned", f"of {first}; what to do: notifications in summary.json"))
    return [*rows, ("numbers", f"{folder}/summary.json")]


def account(summary: Mapping[str, Any]) -> str:
    """Where every group went, and what of the data was left out: `1446 groups leased = 1440 trained + 0 rejected + 6
    requeued + 0 in flight`."""
    counts = summary["counters"]
    lines = sum(len(lines) for lines in summary["left_out"]["lines"].values())
    tasks = len(summary["left_out"]["tasks"])
    ends = " + ".join(
        f"{counts[name]} {name.replace('_', ' ')}" for name in ("trained", "rejected", "requeued", "in_flight")
    )
    parts = [
        f"{counts['leased']} groups leased = {ends}",
        *([f"{counts['replayed']} of them from the spool"] if counts["replayed"] else []),
        *([f"{lines} faulty lines left out"] if lines else []),
        *([f"{tasks} tasks went bad and were left out"] if tasks else []),
    ]
    return "; ".join(parts)


class ConsoleReport:
    """An observer that writes to the terminal; `close` leaves the terminal as it was, however the run ends."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._history: list[StepRecord] = []
        self._run: RunRecord | None = None
        self._base: EvaluationRecord | None = None
        self._final: EvaluationRecord | None = None

    def on_start(self, record: RunRecord) -> None:
        self._run, config = record, record.config
        begun = f", continuing after step {record.first_step}" if record.first_step else ""
        self._print(Text.assemble((config.name, "bold"), f"  {record.folder}  config {record.config_hash[:12]}{begun}"))
        self._print(
            f"{record.train_tasks} training tasks, {record.held_out_tasks} held out; "
            f"{counted(config.learner.steps, 'step')} of {counted(config.learner.groups_per_step, 'group')} of "
            f"{config.group_size}; cluster {config.cluster.mode}"
        )
        for sentence in record.refused_checkpoints:
            self._print(sentence)
        measured = "; the base editor is measured first" if record.held_out_tasks else ""
        self._print(f"starting up{measured} ...")

    def on_notice(self, sentence: str) -> None:
        self._print(Text(sentence, style="yellow"))

    def on_group(self, record: GroupRecord) -> None:
        """Nothing: a step says it all."""

    def on_step(self, record: StepRecord) -> None:
        self._history = [*self._history, record][-TREND_STEPS:]
        times = [step.seconds["step"] for step in self._history]
        left = (record.steps - record.step) * sum(times) / len(times)
        if not self._console.is_terminal:
            self._print(step_line(record, left))
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
            self._console.show_cursor(True)  # a run that is killed leaves the terminal as it is
        assert self._run is not None
        self._live.update(live_view(self._run.config.name, self._history, left), refresh=True)

    def on_evaluation(self, record: EvaluationRecord) -> None:
        if record.label == "final":
            self._final = record
            return
        if record.label == "base":
            self._base = record
        values = ", ".join(f"{name} {amount(name, value)}" for name, value in headlines(record.mean).items())
        title = "base" if record.label == "base" else f"after step {record.step}"
        self._print(f"{title} on {counted(record.tasks, 'held-out task')}: {values}  ({record.seconds:.0f} s)")

    def on_end(self, summary: Mapping[str, Any]) -> None:
        self.close()
        assert self._run is not None
        if self._final is not None and self._final.mean:
            self._print("")
            gain = summary.get("gain", {}).get("standard_error", {})
            self._print(final_table(self._base, self._final, gain))
        warning = verdict_line(summary["verdict"])
        if warning:
            self._print(Text(warning, style="bold red"))
        self._print(Text(account(summary), style="dim"))
        for what, how in next_commands(self._run.folder, summary):
            self._print(Text.assemble((f"{what:9}", "dim"), (how, "cyan")))

    def close(self) -> None:
        """Stops the live table; may be called twice."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _print(self, what: RenderableType) -> None:
        # A log on a full disk does not stop training. Lines are never broken, so that paths can be copied.
        with suppress(OSError):
            self._console.print(what, soft_wrap=isinstance(what, str | Text))
