"""Scorers for candidates, their composition, and the reward pool."""

import runpy
import sys
from pathlib import Path

if sys.argv[:1] == ["-m"]:  # Python is looking for a command that is in here
    runpy.run_path(str(Path(__file__).parents[1] / "configs" / "own_names.py"), run_name="__main__")
