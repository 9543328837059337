"""A calibration as one report: per component and per pair of components; for a terminal and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rewards.offline import calibration
from rewards.result import Score

BARS = "▁▂▃▄▅▆▇█"
BINS = 8
"""Of the histogram between the smallest and the largest value."""

Scored = Sequence[Mapping[str, Sequence[Score]]]
"""Per source, by component, one score per edit."""


@dataclass(frozen=True)
class ComponentReport:
    """The statistics of one component; None where it is undefined.

    Attributes:
        edits: how many have a value; `errors` how many have none, `first_error` why.
        range: where the values lie; `histogram` counts in equal bins from `range.low` to `range.high`.
        passes: responses that each value is the mean of, 0 where the component gives none.
        noise: standard deviation of a single pass; `reliability` of a single pass, `averaged` of the mean of all.
        between: standard deviation of the values between candidates of the same source.
        dynamic: that, freed of noise, against the noise.
    """

    edits: int
    errors: int
    first_error: str | None
    range: calibration.Range | None
    histogram: tuple[int, ...]
    passes: int
    noise: float | None
    reliability: float | None
    averaged: float | None
    between: float | None
    dynamic: calibration.DynamicRange | None


@dataclass(frozen=True)
class Report:
    """The whole calibration; `agreement` by pairs of components."""

    sources: int
    edits: int
    components: Mapping[str, ComponentReport]
    agreement: Mapping[tuple[str, str], calibration.Agreement]
    left_out: tuple[str, ...]


def report(scored: Scored, left_out: Sequence[str]) -> Report:
    """The statistics of all components."""
    names = tuple(scored[0])
    return Report(
        sources=len(scored),
        edits=sum(len(of[names[0]]) for of in scored),
        components={name: component_report([of[name] for of in scored]) for name in names},
        agreement={(a, b): _agreement(scored, a, b) for a, b in combinations(names, 2)},
        left_out=tuple(left_out),
    )


def component_report(groups: Sequence[Sequence[Score]]) -> ComponentReport:
    """The statistics of one component from its scores per source."""
    valid = [[score for score in group if score.value is not None] for group in groups]
    errors = [score.error for group in groups for score in group if score.error is not None]
    values = np.array([score.value for group in valid for score in group], dtype=np.float64)
    passes = np.array([score.passes for group in valid for score in group], dtype=np.float64)
    noise = calibration.noise_variance(passes) if passes.ndim == 2 else None
    single = calibration.reliability(passes) if noise is not None else None
    between = calibration.candidate_variance([np.array([s.value for s in group], dtype=np.float64) for group in valid])
    times = passes.shape[1] if passes.ndim == 2 else 0
    return ComponentReport(
        edits=len(values),
        errors=len(errors),
        first_error=errors[0] if errors else None,
        range=calibration.value_range(values) if values.size else None,
        histogram=tuple(np.histogram(values, BINS)[0].tolist()) if values.size else (),
        passes=times,
        noise=None if noise is None else math.sqrt(noise),
        reliability=single,
        averaged=None if single is None else calibration.averaged(single, times),
        between=None if between is None else math.sqrt(between),
        dynamic=None if between is None or noise is None else calibration.dynamic_range(between, noise, times),
    )


def _agreement(scored: Scored, first: str, second: str) -> calibration.Agreement:
    both = [
        (a.value, b.value, source)
        for source, of in enumerate(scored)
        for a, b in zip(of[first], of[second], strict=True)
        if a.value is not None and b.value is not None
    ]
    one, other = (np.array([row[column] for row in both], dtype=np.float64) for column in (0, 1))
    return calibration.agreement(one, other, [row[2] for row in both])


def as_json(found: Report) -> dict[str, Any]:
    """The report as JSON values."""
    return {
        "sources": found.sources,
        "edits": found.edits,
        "components": {name: asdict(of) for name, of in found.components.items()},
        "agreement": [{"components": list(pair), **asdict(of)} for pair, of in found.agreement.items()],
        "not_measured": list(found.left_out),
    }


def tables(found: Report) -> list[Table]:
    """For a terminal: the values, the dynamic range, the agreement."""
    edits = f"{found.edits} edit{'s' * (found.edits != 1)} of {found.sources} source{'s' * (found.sources != 1)}"
    return [_values(found, edits), _dynamic(found), *([_agreements(found)] if found.agreement else [])]


def _table(title: str, caption: str | None, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    return table


def _values(found: Report, edits: str) -> Table:
    table = _table(edits, None, "component", "edits", "errors", "mean", "min", "p5", "p95", "max", "min-max")
    table.columns[-1].no_wrap = True
    for name, of in found.components.items():
        where = of.range
        numbers = (
            ["–"] * 5 if where is None else [shown(x) for x in (where.mean, where.low, where.p5, where.p95, where.high)]
        )
        table.add_row(
            name, str(of.edits), Text(str(of.errors), style="red" if of.errors else ""), *numbers, bars(of.histogram)
        )
    return table


def _dynamic(found: Report) -> Table:
    table = _table(
        "Can it tell candidates of one source apart?",
        "std: of the values, between candidates of one source. noise: standard deviation of a single pass. ICC: the "
        "share of a pass's variance, and of the mean of the passes, that is between edits. SNR: std without the "
        "noise, over the noise of the mean of the passes.\n",
        "component",
        "std",
        "passes",
        "noise",
        "ICC",
        "ICC of mean",
        "SNR",
    )
    for name, of in found.components.items():
        table.add_row(
            name,
            shown(of.between),
            str(of.passes or "–"),
            shown(of.noise),
            shown(of.reliability),
            shown(of.averaged),
            shown(None if of.dynamic is None else of.dynamic.snr),
        )
    return table


def _agreements(found: Report) -> Table:
    table = _table(
        "Do they order edits alike?",
        "same order: of the pairs of candidates of one source\n",
        "components",
        "edits",
        "Spearman",
        "Kendall",
        "same order",
        "pairs",
    )
    for (first, second), of in found.agreement.items():
        same = "–" if of.same_order is None else f"{of.same_order:.0%}"
        table.add_row(f"{first}, {second}", str(of.edits), shown(of.spearman), shown(of.kendall), same, str(of.pairs))
    return table


def verdict(of: ComponentReport) -> str:
    """Whether the dynamic range suffices, and what to change."""
    wanted = f"{calibration.WANTED_SNR:g}"
    if not of.edits:
        return "has no value at all"
    if of.between is None:
        return "needs several edits of one source"
    if of.dynamic is None:
        return "one response per edit, so no noise to compare with" if of.between else "the same for all candidates"
    if of.dynamic.passes_needed is None:
        return "no signal: candidates differ by no more than passes do"
    if of.dynamic.snr is None or of.dynamic.snr >= calibration.WANTED_SNR:
        return f"suffices (SNR {wanted} takes {of.dynamic.passes_needed} passes)"
    return f"too noisy: SNR {wanted} takes {of.dynamic.passes_needed} passes"


def shown(value: float | None) -> str:
    """Three significant digits, or a dash."""
    return "–" if value is None else f"{value:#.3g}".rstrip(".")


def bars(counts: Sequence[int]) -> str:
    """A histogram in one line: an empty bin is a blank, any other at least the lowest bar."""
    most = max(counts, default=0)
    return "".join(" " if count == 0 else BARS[math.ceil(count / most * len(BARS)) - 1] for count in counts)
