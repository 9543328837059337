"""The command and the table that it prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.paths import path_argument
from configs.run_files import EVENTS
from learner.audit.history import PROMISES
from learner.audit.rules import Audit, audited

HOLDS, BROKEN, NO_LOG, NOT_FINISHED = 0, 1, 2, 4
MAX_SHOWN = 5


def report(audit: Audit) -> Table:
    """A row per promise: whether it holds, and the first faults; and whether the run is finished."""
    counts = ", ".join(f"{count} {name}" for name, count in audit.counts.items() if count)
    table = Table("promise", "verdict", "what it says", caption=counts, caption_justify="left")
    for name, promise in PROMISES.items():
        faults = audit.faults[name]
        text = Text(promise)
        for fault in faults[:MAX_SHOWN]:
            text.append(f"\n{fault}", style="red")
        if len(faults) > MAX_SHOWN:
            text.append(f"\nand {len(faults) - MAX_SHOWN} more", style="red")
        table.add_row(name, Text("broken", style="red") if faults else Text("holds", style="green"), text)
    verdict = Text("finished", style="green") if audit.finished else Text("not finished", style="yellow")
    table.add_row("end", verdict, Text(f"the run {'is ' * (not audit.finished)}{audit.end}"))
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the verdicts; 0 when every promise holds and the run is finished, 1 when a promise is broken, 2 when there
    is no event log to read, 4 when nothing is broken but the run is not finished."""
    parser = argparse.ArgumentParser(
        prog="python -m learner.audit", description="Prove a run's promises again, from its event log alone."
    )
    parser.add_argument("run", type=path_argument, help="folder of the run, such as runs/quickstart")
    path = parser.parse_args(arguments).run / EVENTS
    try:
        audit = audited(path)
    except OSError as error:
        print(f"expected the folder of a run, but {path} cannot be read: {error.strerror}", file=sys.stderr)
        return NO_LOG
    Console().print(report(audit))
    if any(audit.faults.values()):
        return BROKEN
    return HOLDS if audit.finished else NOT_FINISHED
