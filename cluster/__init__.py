"""Ray start-up, placement and scaling; imports configs only."""

import runpy
import sys
from pathlib import Path

if sys.argv[:1] == ["-m"]:  # Python is locating a command of this package
    runpy.run_path(str(Path(__file__).parents[1] / "configs" / "own_names.py"), run_name="__main__")
