"""The gallery as one self-contained HTML file without scripts.

Images are PNG data URIs, the style is inside, there are no scripts, and a content security policy says so
to the browser. Every text that comes from data is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs.components import RANK
from editing.task import EditTask, Image
from learner.reporting.gallery.images import attention_overlay, change_map, data_uri, mask_overlay, shrink
from learner.reporting.gallery.style import STYLE
from locus.common.files import write_whole
from rewards.result import Score

SMALL = 160
"""Images up to this many pixels wide are enlarged pixel by pixel, so that nothing is smoothed over."""


@dataclass(frozen=True, eq=False)
class GalleryTask:
    """One held-out task: what the base and the trained editor make of it from the same noise.

    Attributes:
        trained: uint8 [H, W, 3]; `base` likewise, None where it was not measured (a resumed run).
        trained_attention: the text's attention over the token grid [h, w], if it was kept; `base_attention` too.
        numbers: (base, trained) per metric.
    """

    task: EditTask
    trained: Image
    base: Image | None = None
    trained_attention: NDArray[np.floating] | None = None
    base_attention: NDArray[np.floating] | None = None
    numbers: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)


ROLLED_OUT = (
    '<p class="soft">All candidates of a group start from one noise that is perturbed mostly inside the edit region '
    "(ref: the unperturbed one). They are sorted by reward, best first; each bar runs from the worst to the best of "
    "the group.</p>"
)
GIVEN = (
    '<p class="soft">Images of the data, which are learnt from in place of rollouts; of a pair, the better first.</p>'
)


@dataclass(frozen=True, eq=False)
class GalleryGroup:
    """One training group of G candidates.

    Attributes:
        step: the optimizer step it was trained in, 1-based.
        images: uint8 [G, H, W, 3]; candidate 0 is the unperturbed reference, unless images were given.
        rewards: combined reward per candidate, None where a component has no value.
        components: scores per component and candidate.
    """

    task: EditTask
    step: int
    images: Image
    rewards: tuple[float | None, ...]
    components: Mapping[str, tuple[Score, ...]]

    @property
    def is_given(self) -> bool:
        """Whether the images were given to the method (`editing.given`), so that there is no reference."""
        return RANK in self.components


@dataclass(frozen=True)
class Gallery:
    """A whole page; `means` holds (base, trained) over all held-out tasks per metric."""

    title: str
    facts: Mapping[str, str]
    means: Mapping[str, tuple[float | None, float | None]]
    tasks: tuple[GalleryTask, ...]
    groups: tuple[GalleryGroup, ...]


class GalleryError(ValueError):
    """The gallery cannot be written where it was asked to."""


def write_gallery(gallery: Gallery, run_folder: Path) -> Path:
    """Write `gallery/index.html` below the run folder, whole or not at all, and return its path.

    Raises:
        GalleryError: when a link would lead the file out of the run folder.
        OSError: when the disk refuses; an earlier page is as it was.
    """
    root = run_folder.resolve()
    path = (root / "gallery" / "index.html").resolve()
    if not path.is_relative_to(root):
        raise GalleryError(f"{run_folder}/gallery: expected a place inside the run folder, but it leads to {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, render(gallery))
    return run_folder / "gallery" / "index.html"


def render(gallery: Gallery) -> str:
    """The page as HTML text."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = _text(gallery.title)
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_text(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{title} · Locus gallery</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{title}</h1>",
        _facts(gallery.facts),
        _means(gallery.means),
    ]
    if gallery.tasks:
        parts += [
            "<h2>Held-out tasks</h2>",
            '<p class="soft">The base editor and the trained one, from the same noise. Pink outlines the edit '
            "region. Change maps show the difference to the source: outside the outline they should stay dark. "
            "Attention maps show where the instruction looks.</p>",
            *(_task(shown) for shown in gallery.tasks),
        ]
    if gallery.groups:
        parts += [
            "<h2>Training groups</h2>",
            GIVEN if gallery.groups[0].is_given else ROLLED_OUT,
            *(_group(group) for group in gallery.groups),
        ]
    return "\n".join([*parts, "<footer>Written by Locus.</footer>", "</body>", "</html>", ""])


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _facts(facts: Mapping[str, str]) -> str:
    return (
        '<p class="facts">'
        + "".join(f"<span>{_text(name)} <b>{_text(value)}</b></span>" for name, value in facts.items())
        + "</p>"
    )


def number(name: str, value: float | None) -> str:
    """A metric's value as it is shown: dB with two places, shares with three, nothing as a dash."""
    if value is None:
        return "–"
    return f"{value:.2f} dB" if name.endswith("psnr") else f"{value:.3f}"


def _difference(name: str, base: float | None, trained: float | None) -> str:
    if base is None or trained is None:
        return ""
    change = trained - base
    kind = "up" if change > 0 else "down" if change < 0 else "soft"
    return (
        f'<span class="{kind}">{change:+.2f}</span>'
        if name.endswith("psnr")
        else (f'<span class="{kind}">{change:+.3f}</span>')
    )


def _means(means: Mapping[str, tuple[float | None, float | None]]) -> str:
    if not means:
        return ""
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td>{number(name, base)}</td><td>{number(name, trained)}</td>"
        f"<td>{_difference(name, base, trained)}</td></tr>"
        for name, (base, trained) in means.items()
    )
    return f"<table><tr><th>held-out mean</th><th>base</th><th>trained</th><th>difference</th></tr>{rows}</table>"


def _figure(image: Image, caption: str, kind: str = "", detail: str = "") -> str:
    """An image with a caption (escaped here) and `detail` (already HTML) below it."""
    shown = shrink(image)
    height, width = shown.shape[:2]
    small = ' class="small"' if width <= SMALL else ""
    return (
        f'<figure class="{kind}"><img{small} src="{data_uri(shown)}" width="{width}" height="{height}" '
        f'alt="{_text(caption)}"><figcaption><b>{_text(caption)}</b></figcaption>{detail}</figure>'
    )


def _header(task: EditTask, note: str) -> str:
    return (
        f'<header class="task"><h3>{_text(task.instruction)}</h3>'
        f'<span class="id soft">{_text(task.task_id)}{_text(note)}</span></header>'
    )


def _task(shown: GalleryTask) -> str:
    """Two rows on a wide screen: source, region, base, trained, target; change, attention, numbers."""
    task, source, mask = shown.task, shown.task.source, shown.task.edit_mask
    figures = [_figure(source, "source"), _figure(mask_overlay(source, mask), "edit region")]
    if shown.base is not None:
        figures.append(_figure(shown.base, "base"))
    figures.append(_figure(shown.trained, "trained", "trained"))
    maps = [
        _figure(change_map(image, source, mask), f"change, {name}")
        for image, name in ((shown.base, "base"), (shown.trained, "trained"))
        if image is not None
    ]
    maps += [
        _figure(attention_overlay(source, attention, mask), f"attention, {name}")
        for attention, name in ((shown.base_attention, "base"), (shown.trained_attention, "trained"))
        if attention is not None
    ]
    numbers = (
        '<dl class="numbers">'
        + "".join(
            f"<div><dt>{_text(name)}</dt><dd>{number(name, base)} → {number(name, trained)} "
            f"{_difference(name, base, trained)}</dd></div>"
            for name, (base, trained) in shown.numbers.items()
        )
        + "</dl>"
    )
    # Without a target the numbers take its place, so that the maps begin a row.
    cells = (
        [*figures, numbers, *maps]
        if task.target is None
        else [*figures, _figure(task.target, "target"), *maps, numbers]
    )
    caption = f'<p class="soft">{_text(task.caption)}</p>' if task.caption else ""
    return f'<article>{_header(task, "")}{caption}<div class="images">{"".join(cells)}</div></article>'


def _group(group: GalleryGroup) -> str:
    task = group.task
    order = sorted(range(len(group.images)), key=lambda i: (group.rewards[i] is None, -(group.rewards[i] or 0.0), i))
    figures = [_figure(mask_overlay(task.source, task.edit_mask), "source and edit region")]
    figures += [_candidate(group, index, rank) for rank, index in enumerate(order, start=1)]
    return (
        f'<article>{_header(task, f" · step {group.step}")}<div class="candidates">{"".join(figures)}</div></article>'
    )


def _candidate(group: GalleryGroup, index: int, rank: int) -> str:
    reward = group.rewards[index]
    caption = f"{rank}. no reward" if reward is None else f"{rank}. reward {reward:.2f}"
    if index == 0 and not group.is_given:
        caption += " · ref"
    bars = "".join(_bar(name, scores, index) for name, scores in group.components.items())
    detail = f'<div class="bars">{bars}</div>'
    errors = sorted({scores[index].error or "" for scores in group.components.values()} - {""})
    detail += "".join(f'<div class="missing">{_text(error)}</div>' for error in errors)
    return _figure(group.images[index], caption, "best" if rank == 1 else "", detail)


def _bar(name: str, scores: tuple[Score, ...], index: int) -> str:
    """Label, bar and value of one component; the bar's length is the place between the group's extremes."""
    value, values = scores[index].value, [score.value for score in scores if score.value is not None]
    label = f"<span>{_text(name)}</span><b>{number(name, value)}</b>"
    if value is None:
        return label
    low, high = min(values), max(values)
    share = 100.0 if high == low else 100 * (value - low) / (high - low)
    return (
        f'{label}<svg viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="4"/><rect class="value" width="{share:.1f}" height="4"/></svg>'
    )
