"""`--help`: usage, examples, presets, and every key with its type, default and meaning, read from the schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from configs.layers import PRESETS, preset_names
from configs.tree import REQUIRED, Key, SectionKeys, sections

USAGE = (
    "python -m learner.main [--config NAME_OR_PATH] [--section.key VALUE ...] [--dry-run] "
    "[--resume [--allow-changed KEY ...]]"
)
EXAMPLES = (
    ("python -m learner.main", "the quickstart: the embedded benchmark, minutes on two CPU cores"),
    ("python -m learner.main --config my_images --dry-run", "print what would run, where, and whether it fits"),
    ("python -m learner.main --learner.steps 20 --name short", "override values; every run has its own name"),
    ("python -m learner.main --rewards.weights.acd 0.1", "change one entry of a mapping"),
    ("python -m learner.main --cluster.mode inline", "run in a single process, without Ray"),
    ("python -m learner.main --config runs/quickstart/config.yaml --resume", "resume a stopped run"),
)
FLAGS = (
    ("--config NAME_OR_PATH", "a preset or a YAML file with any of the keys below; default quickstart"),
    (
        "--dry-run",
        "validate everything and exit; print the resolved YAML with its hash and, as comments, the placement of "
        "processes and the memory they need",
    ),
    ("--resume", "resume the run of this name from its newest complete checkpoint, with the groups accepted since"),
    (
        "--allow-changed KEY",
        "with --resume: accept a change of this key or section; `code` means sources and libraries, "
        "`data` includes the tasks; repeatable",
    ),
)
FILES = (
    "A YAML file holds any of the keys below, in nested sections; `extends: NAME_OR_PATH` inherits from another one. "
    "Lists and mappings are replaced as a whole, not merged. Flags override files, and values are JSON or YAML: 3, "
    "1e-4, true, null, [1, 2], '{acd: 1}'. Dashes in keys are read as underscores. Secrets come from the environment "
    "only (HF_TOKEN), never from a config."
)


def preset_summary(path: Path) -> str:
    """The first comment line of a preset: what it is for."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def help_parts() -> Iterator[RenderableType]:
    """The parts that `--help` prints, in order."""
    yield Text("Locus: region-constrained GRPO for instruction-based image editing", style="bold")
    yield Text(f"\n{USAGE}\n")
    yield _pairs("Flags", FLAGS)
    yield _pairs("Examples", EXAMPLES)
    yield _pairs("Presets", [(name, preset_summary(PRESETS / f"{name}.yaml")) for name in preset_names()])
    yield Group(Text("Configuration files", style="bold"), _indented(2, FILES), Text())
    told: dict[str, Key] = {}
    for section in sections():
        yield from _section_parts(section, told)


def _pairs(title: str, rows: Iterable[tuple[str, str]]) -> RenderableType:
    parts: list[RenderableType] = [Text(title, style="bold")]
    for left, right in rows:
        parts += [_indented(2, Text(left, style="cyan")), _indented(6, right)]
    return Group(*parts, Text())


def _indented(columns: int, text: str | Text) -> RenderableType:
    """Text that keeps its indentation where it is wrapped."""
    return Padding(Text(text) if isinstance(text, str) else text, (0, 0, 0, columns))


def _section_parts(section: SectionKeys, told: dict[str, Key]) -> Iterator[RenderableType]:
    """The section without those keys that stood the same in a variant before; `told` are the keys so far."""
    keys = [key for key in section.keys if told.get(key.path) != key]
    if section.variant and not keys:
        return
    title = section.path or "run"
    if section.variant:
        title += f"  (with --{section.variant[0]} {section.variant[1]})"
    yield Rule(Text(title, style="bold"), align="left", style="dim")
    yield _indented(2, Text(section.doc, style="italic"))
    if len(keys) < len(section.keys):
        yield _indented(2, Text("Other keys and their defaults are as above.", style="italic"))
    for key in keys:
        yield _indented(2, _key_line(key))
        before = told.setdefault(key.path, key)
        if key.doc and (before is key or before.doc != key.doc):
            yield _indented(6, key.doc.replace("None", "null"))
    yield Text()


def _key_line(key: Key) -> Text:
    default = "required" if key.default is REQUIRED else plain(key.default)
    return Text.assemble((f"--{key.path}", "cyan"), "  ", (key.kind, "dim"), "  ", (f"[{default}]", "green"))


def plain(value: Any) -> str:
    """A default value as it would be typed."""
    return value if isinstance(value, str) else json.dumps(value)


def print_help(console: Console | None = None) -> None:
    """Print the help to the terminal (or to `console`)."""
    console = console or Console(highlight=False, soft_wrap=False)
    for part in help_parts():
        console.print(part)
