"""Quality of judges on a folder of edits: noise, reliability, dynamic range, agreement.

    python -m rewards.calibrate my_edits --rewards.judge.editscore.urls '[http://127.0.0.1:8000/v1]'

The folder has a manifest.jsonl whose lines say `edited`: images that were made of `source`, one or a list.

    {"locus_manifest": 1, "mask_polarity": "edit_is_white"}
    {"source": "cat.png", "mask": "cat_mask.png", "instruction": "make the cat red", "edited": ["1.png", "2.png"]}

`mask` may be missing. Several edits of the same source are what tells whether a judge can order candidates.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from configs.output import protect_output
from configs.paths import path_argument
from editing.masks import POLARITIES
from rewards.offline.calibration_report import Scored, as_json, report, tables, verdict
from rewards.offline.command import configuration, ended, opened
from rewards.offline.edits import EditFiles, read_manifest
from rewards.pool import RewardPool
from rewards.result import Score
from rewards.scorers.judged import together

AT_ONCE = 8
"""Sources whose images are in memory and at the judges at the same time."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m rewards.calibrate",
        description="Judge noise, agreement between judges and dynamic range, on a folder of edits.",
        epilog="Further flags are those of learner.main, such as --rewards.judge.editscore.passes 8. Ends with 0 when "
        "every component could score something, else with 1; with 2 for wrong requests.",
        allow_abbrev=False,
    )
    result.add_argument(
        "folder",
        type=path_argument,
        help="a folder with a manifest.jsonl, or such a file: source, mask, instruction and edited (a path or a list)",
    )
    result.add_argument(
        "--mask-polarity",
        choices=POLARITIES,
        help="of the masks, where neither the manifest's header nor its lines say it",
    )
    result.add_argument(
        "--follow-links", action="store_true", help="follow links that lead out of the manifest's folder"
    )
    result.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    return result


async def calibrate(options: argparse.Namespace, flags: Sequence[str]) -> bool:
    """Scores all edits and prints the report; True when every component has a value somewhere."""
    groups = await asyncio.to_thread(read_manifest, options.folder, options.mask_polarity, options.follow_links)
    config, found = configuration(
        flags,
        any(files.masked for files in groups),
        any(files.target is not None for files in groups),
        any(files.caption is not None for files in groups),
    )
    async with opened(config) as pool:
        scored = await all_scores(pool, groups, Console(stderr=True))
    result = report(scored, found.left_out)
    if options.json:
        print(json.dumps(as_json(result), indent=1, allow_nan=False))
        return all(of.edits for of in result.components.values())
    console = Console(highlight=False)
    for table in tables(result):
        console.print(table)
    for name, of in result.components.items():
        console.print(Text(f"{name}: {verdict(of)}."))
        if of.first_error is not None:
            console.print(
                Text(f"{of.errors} of {of.errors + of.edits} have no {name}; the first: {of.first_error}", style="red")
            )
    for sentence in found.left_out:
        console.print(Text(f"Not measured: {sentence}.", style="dim"))
    return all(of.edits for of in result.components.values())


async def all_scores(pool: RewardPool, groups: Sequence[EditFiles], console: Console) -> Scored:
    """The scores of all groups, some at the same time, with a bar of the edits that are done."""
    places = asyncio.Semaphore(AT_ONCE)
    bar = Progress(
        TextColumn("Scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("edits"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )

    async def one(files: EditFiles) -> Mapping[str, Sequence[Score]]:
        async with places:
            task, images = await asyncio.to_thread(files.load)
            found = await pool.score_task(task, images)
        bar.advance(line, len(images))
        return found

    with bar:
        line = bar.add_task("", total=sum(len(files.edited) for files in groups))
        return await together([one(files) for files in groups])


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrates on what the command line names; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0].startswith("--") and words[0] != "--help":
        # Otherwise the value of a flag that is not known here would be taken for the folder.
        parser().error(f"expected the folder first, got {words[0]}")
    options, flags = parser().parse_known_args(words)
    return ended(calibrate(options, flags))


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
