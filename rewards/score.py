"""Scores edits in files by every component that can be measured on them.

    python -m rewards.score --source a.png --edited b.png --mask m.png --instruction "make the cat red"
    python -m rewards.score ... --rewards.judge.editscore.urls '[http://127.0.0.1:8000/v1]'

Without a judge: PSNR and SSIM of what was not to change. Configuration is that of training (--config, --section.key).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.output import protect_output
from configs.paths import path_argument
from editing.masks import POLARITIES
from rewards.offline.command import Components, configuration, ended, opened
from rewards.offline.edits import EditFiles
from rewards.result import Score

Scores = Mapping[str, Sequence[Score]]
"""By component, one per edited image."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m rewards.score",
        description="Score edits by every component that can be computed for them.",
        epilog="Further flags are those of learner.main: --config, --rewards.judge.editscore.urls, and so on. "
        "Exit code 0 when every component has a value, with 1 when one is an error, with 2 for wrong requests.",
        allow_abbrev=False,
    )
    result.add_argument("--source", type=path_argument, required=True, help="the image before: PNG, JPEG or WebP")
    result.add_argument(
        "--edited",
        type=path_argument,
        required=True,
        action="extend",
        nargs="+",
        help="the image after, or several, each of the source's size",
    )
    result.add_argument("--instruction", required=True, help="what was to be done, in words")
    result.add_argument("--mask", type=path_argument, help="black-and-white PNG: what was to change, and what was not")
    result.add_argument(
        "--mask-polarity",
        choices=POLARITIES,
        default=POLARITIES[0],
        help="which colour of the mask was to change (default %(default)s)",
    )
    result.add_argument("--caption", help="what the wanted image shows, in words, for embedding models")
    result.add_argument("--target", type=path_argument, help="the wanted image, if there is one: PSNR inside the mask")
    result.add_argument("--json", action="store_true", help="print JSON in place of the table")
    return result


def as_table(files: EditFiles, scores: Scores) -> Table:
    """For a terminal: value and spread of the passes of every component of every edit."""
    table = Table(box=SIMPLE_HEAD, title=Text(f'{files.source}: "{files.instruction}"'), title_justify="left")
    table.add_column("edited")
    table.add_column("component", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("std of passes", justify="right", no_wrap=True)
    for number, path in enumerate(files.edited):
        for name in scores:
            score = scores[name][number]
            value = Text("error", style="red") if score.value is None else Text(shown(name, score.value))
            table.add_row(Text("" if name != next(iter(scores)) else str(path)), name, value, spread(score))
        table.add_section()
    return table


def errors(files: EditFiles, scores: Scores) -> list[str]:
    """Why there is no value where there is none."""
    return [
        f"{path}: {one.error}"
        for number, path in enumerate(files.edited)
        for one in (of[number] for of in scores.values())
        if one.error is not None
    ]


def notes(files: EditFiles, found: Components) -> list[str]:
    """What to know about the table: how the mask was read, and what is not in it."""
    colour = "white" if files.polarity == "edit_is_white" else "black"
    stated = [f"Of the mask {files.mask}, {colour} was to change ({files.polarity})."] if files.mask else []
    return stated + [f"Not measured: {sentence}." for sentence in found.left_out]


def shown(name: str, value: float) -> str:
    """A value with as many digits as mean something, PSNR in dB."""
    return f"{value:.2f} dB" if name.endswith("psnr") else f"{value:.4f}"


def spread(score: Score) -> str:
    """The standard deviation of the passes, and how many there were; empty where there was one response."""
    return f"{statistics.stdev(score.passes):.4f} of {len(score.passes)}" if len(score.passes) > 1 else ""


def as_json(files: EditFiles, scores: Scores, found: Components) -> dict[str, Any]:
    """The same as JSON values; of `value` and `error` exactly one is null."""
    return {
        "source": str(files.source),
        "instruction": files.instruction,
        "mask": None if files.mask is None else str(files.mask),
        "mask_polarity": files.polarity,
        "target": None if files.target is None else str(files.target),
        "edited": [
            {
                "file": str(path),
                "scores": {
                    name: {
                        "value": of[number].value,
                        "error": of[number].error,
                        "reason": of[number].reason,
                        "passes": list(of[number].passes),
                    }
                    for name, of in scores.items()
                },
            }
            for number, path in enumerate(files.edited)
        ],
        "not_measured": list(found.left_out),
    }


async def score(files: EditFiles, flags: Sequence[str], to_json: bool) -> bool:
    """Scores and prints; True when every component has a value for every edit."""
    config, found = configuration(flags, files.masked, files.target is not None, files.caption is not None)
    task, images = files.load()
    async with opened(config) as pool:
        with Console(stderr=True).status("Scoring ..."):
            scores = await pool.score_task(task, images)
    if to_json:
        print(json.dumps(as_json(files, scores, found), indent=1))
    else:
        console = Console(highlight=False)
        console.print(as_table(files, scores))
        for why in errors(files, scores):
            console.print(Text(why, style="red"))
        for note in notes(files, found):
            console.print(Text(note, style="dim"))
    return not errors(files, scores)


def main(arguments: Sequence[str] | None = None) -> int:
    """Scores what the command line names; returns the exit code."""
    options, flags = parser().parse_known_args(arguments)
    files = EditFiles(
        name=options.source.name,
        source=options.source,
        instruction=options.instruction,
        edited=tuple(options.edited),
        mask=options.mask,
        polarity=options.mask_polarity,
        target=options.target,
        caption=options.caption,
    )
    return ended(score(files, flags, options.json))


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
