"""Plots of the tables, as PNG files. Matplotlib is imported when one is drawn."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.report import Row
from evaluation.runs import AblationError
from evaluation.statistics import Interval

COLOURS = ("#1f6fb4", "#d1682c", "#3b8f4d", "#8456a8", "#8a6d3b", "#5b6770")
DPI = 130
PANELS = 4


def check_plots() -> None:
    """Raises AblationError where matplotlib is not installed: before hours of runs, not after."""
    if importlib.util.find_spec("matplotlib") is None:
        raise AblationError("plots: matplotlib is not installed; type: python -m pip install -e '.[plots]'")


def _figure(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure of `count` panels, at most PANELS side by side, each `width` by `height` inches; without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines, columns = math.ceil(count / PANELS), min(count, PANELS)
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(lines, columns, number + 1) for number in range(count)]
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _save(figure: Any, path: Path, title: str) -> None:
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _bar(interval: Interval) -> tuple[float, float]:
    """Lengths of the error bar below and above; none for a single value."""
    half = interval.half_width
    return (0.0, 0.0) if half is None else (half, half)


def plot_gains(path: Path, rows: Sequence[Row], metrics: Sequence[str], title: str) -> None:
    """Gains over the base and their 95 % intervals: a panel per metric, a line per row; a dashed line at none."""
    shown = [name for name in metrics if any(name in row.metrics for row in rows)]
    figure, panels = _figure(max(1, len(shown)), 2.6, 1.2 + 0.3 * len(rows))
    for number, (panel, metric) in enumerate(zip(panels, shown, strict=False)):
        for place, row in enumerate(rows):
            if metric in row.metrics:
                found = row.metrics[metric].difference
                low, high = _bar(found)
                panel.errorbar(
                    found.mean, place, xerr=[[low], [high]], fmt="o", capsize=3, color=COLOURS[place % len(COLOURS)]
                )
        panel.axvline(0, color="black", linewidth=0.8, linestyle="--")
        panel.set_yticks(range(len(rows)), [row.name for row in rows] if number % PANELS == 0 else [""] * len(rows))
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.set_xlabel(f"gain in {metric}")
    _save(figure, path, title)


def plot_frontier(path: Path, rows: Sequence[Row], across: str, up: str, title: str) -> None:
    """Each row's gain in one metric against that in another, with 95 % intervals."""
    figure, (panel,) = _figure(1, 6.5, 5.0)
    for place, row in enumerate(row for row in rows if across in row.metrics and up in row.metrics):
        x, y = row.metrics[across].difference, row.metrics[up].difference
        bars = [[[length] for length in _bar(one)] for one in (x, y)]
        colour = COLOURS[place % len(COLOURS)]
        panel.errorbar(x.mean, y.mean, xerr=bars[0], yerr=bars[1], fmt="o", capsize=3, color=colour)
        panel.annotate(row.name, (x.mean, y.mean), xytext=(5, 5), textcoords="offset points", color=colour)
    for line in (panel.axvline, panel.axhline):
        line(0, color="black", linewidth=0.8, linestyle="--")
    panel.set_xlabel(f"gain in {across}")
    panel.set_ylabel(f"gain in {up}")
    _save(figure, path, title)


def plot_ecdfs(path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> None:
    """Empirical distribution functions: a panel per quantity, a curve per row."""
    figure, axes = _figure(len(panels), 4.5, 3.6)
    for axis, (quantity, curves) in zip(axes, panels.items(), strict=True):
        for number, (label, values) in enumerate(curves.items()):
            ordered = sorted(values)
            shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
            axis.step([ordered[0], *ordered], [0.0, *shares], where="post", label=label, color=COLOURS[number])
        axis.set_xlabel(quantity)
        axis.set_ylim(0, 1.02)
        axis.legend(frameon=False)
    axes[0].set_ylabel("share of groups at or below")
    _save(figure, path, title)


def plot_curves(
    path: Path,
    panels: Mapping[str, Mapping[str, Sequence[Interval | None]]],
    places: Sequence[str],
    across: str,
    title: str,
    line: float,
) -> None:
    """Means with 95 % intervals over the values of a setting: a panel per quantity, a curve per label.

    Args:
        path: PNG to write.
        panels: quantity -> label -> one interval per place; None where nothing was measured.
        places: the values of the setting, in order, evenly spaced.
        across: name of the setting.
        title: above all.
        line: where a dashed line marks "none".
    """
    figure, axes = _figure(len(panels), 4.0, 3.4)
    for axis, (quantity, curves) in zip(axes, panels.items(), strict=True):
        for number, (label, found) in enumerate(curves.items()):
            known = [(place, one) for place, one in enumerate(found) if one is not None]
            axis.errorbar(
                [place for place, _ in known],
                [one.mean for _, one in known],
                yerr=[[_bar(one)[side] for _, one in known] for side in (0, 1)],
                fmt="o-",
                capsize=3,
                label=label,
                color=COLOURS[number % len(COLOURS)],
            )
        axis.axhline(line, color="black", linewidth=0.8, linestyle="--")
        axis.set_xticks(range(len(places)), places)
        axis.set_xlabel(across)
        axis.set_ylabel(quantity)
        if len(curves) > 1:
            axis.legend(frameon=False)
    _save(figure, path, title)
