"""What the tables without training have in common: flags, tasks, files."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.commands import command
from configs.paths import path_argument
from configs.schema import RunConfig
from editing.data import Tasks
from editing.task import EditTask
from editing.trajectory import Lease
from evaluation.statistics import Interval
from learner.scheduling.sampler import LeaseSampler


def parser(name: str, description: str, tasks: int) -> argparse.ArgumentParser:
    """The flags of every table without training."""
    made = argparse.ArgumentParser(
        prog=command("evaluation.ablation", name),
        description=description,
        epilog="Further flags are those of learner.main, such as --seed 1 or --sampler.group_size 12.",
        allow_abbrev=False,
    )
    made.add_argument(
        "--tasks", type=int, default=tasks, help="training tasks, of one group per row each (default %(default)s)"
    )
    made.add_argument(
        "--out", type=path_argument, default=Path(f"runs/{name}"), help="folder of the report (default %(default)s)"
    )
    return made


def leased(config: RunConfig, tasks: Tasks, count: int) -> Iterator[tuple[EditTask, Lease]]:
    """The first `count` tasks of a run with their leases, the same for every row of one seed."""
    size = config.learner.groups_per_step
    sampler = LeaseSampler(config.seed, len(tasks.train), size)
    for place in range(count):
        lease = sampler.leases(place // size, 0)[place % size]
        yield tasks.train[lease.task_index], lease


def interval_words(interval: Interval, digits: int = 3) -> str:
    """`mean (low … high)`, significant digits."""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.{digits}g}"
    return f"{interval.mean:.{digits}g} ({interval.low:.{digits}g} … {interval.high:.{digits}g})"


def write_page(
    out: Path,
    name: str,
    title: str,
    words: Sequence[str],
    note: str,
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    sentences: Sequence[str],
    values: Mapping[str, Any],
) -> None:
    """Write NAME.md with a table and sentences, and NAME.json; NAME.png is the plot that the page shows. `words` are
    the command."""
    lines = [f"# {title}", "", f"`{shlex.join(words)}`", "", note, ""]
    lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(line) + " |" for line in cells]
    lines += ["", *(f"- {sentence}" for sentence in sentences), "", f"![{title}]({name}.png)"]
    (out / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = {"command": list(words), "confidence": 0.95, **values, "sentences": list(sentences)}
    (out / f"{name}.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
