"""Commands that a sentence tells a person to type: they work as they are printed."""

from __future__ import annotations

import shlex
from pathlib import Path

from configs.run_files import CONFIG


def command(module: str, *words: str | Path) -> str:
    """`python -m MODULE WORDS`, in which a shell takes every word as one: folders may have blanks in their names."""
    return shlex.join(["python", "-m", module, *map(str, words)])


def resume(run: Path) -> str:
    """What continues the run in a folder."""
    return command("learner.main", "--config", run / CONFIG, "--resume")
