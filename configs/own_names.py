"""Refuses a start where a file of the user's hides a package of ours, such as `rewards.py` in the working folder.

`python -m learner.main` has Python look first into the folder in which it is started. The packages with commands run
this file before anything else, and do not import it: `configs` may be the package that is hidden.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = ("actors", "cluster", "common", "configs", "editing", "evaluation", "learner", "locus", "rewards")
ROOT = Path(__file__).resolve().parents[1]


def hidden() -> tuple[str, str] | None:
    """A package of ours and the file that Python takes for it; None when each is found where this file is."""
    for name in PACKAGES:
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).resolve().parents[1] != ROOT:
            return name, spec.origin
    return None


if __name__ == "__main__" and (found := hidden()):
    name, file = found
    sys.exit(
        f"{file} has the name of a package of Locus, {name!r}, and hides it: Python looks first into the folder "
        "in which it is started. Rename it, or start in another folder"
    )
