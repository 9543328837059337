"""The command `locus` and the version; imports nothing of ours and nothing that takes time."""

import runpy
import sys
from pathlib import Path

from locus.version import __version__

__all__ = ["__version__"]

if sys.argv[:1] == ["-m"]:  # Python is looking for a command that is in here
    runpy.run_path(str(Path(__file__).parents[1] / "configs" / "own_names.py"), run_name="__main__")
