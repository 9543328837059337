"""Commands that messages tell the user to type: they work exactly as printed."""

from __future__ import annotations

import shlex
from pathlib import Path

from configs.run_files import CONFIG


def command(module: str, *words: str | Path) -> str:
    """`python -m MODULE WORDS`, quoted for a shell: folder names may contain spaces."""
    return shlex.join(["python", "-m", module, *map(str, words)])


def resume(run: Path) -> str:
    """The command that resumes the run in a folder."""
    return command("learner.main", "--config", run / CONFIG, "--resume")
