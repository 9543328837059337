"""Refuse to start if a user's file shadows a package of Locus, such as `rewards.py` in the working folder.

`python -m learner.main` searches the current folder first. Packages with commands run this file before anything else
instead of importing it: `configs` may be the package that is shadowed.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = ("actors", "cluster", "configs", "editing", "evaluation", "learner", "locus", "rewards")
ROOT = Path(__file__).resolve().parents[1]


def hidden() -> tuple[str, str] | None:
    """A shadowed package of Locus and the file that shadows it; None if every package is found beside this one."""
    for name in PACKAGES:
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).resolve().parents[1] != ROOT:
            return name, spec.origin
    return None


if __name__ == "__main__" and (found := hidden()):
    name, file = found
    sys.exit(
        f"{file} has the name of a package of Locus, {name!r}, and shadows it: Python searches the current folder "
        "first. Rename the file, or start in another folder"
    )
