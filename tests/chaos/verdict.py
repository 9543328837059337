"""The verdict: whether the promises were kept, and its tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from configs.run_files import EVENTS
from learner import audit
from learner.audit.report import report
from tests.chaos.run import Run
from tests.chaos.victims import FAULTS, Struck, witnessed


def broken_promises(run: Run, struck: Sequence[Struck], left: Sequence[str]) -> list[str]:
    """One sentence per broken promise.

    Args:
        run: that has finished.
        struck: what was done to it.
        left: processes that should be gone.
    """
    found = [
        f"{promise}: {fault}"
        for promise, faults in audit.audited(run.folder / EVENTS).faults.items()
        for fault in faults
    ]
    found += [f"a process was left: {one}" for one in left]
    for kind in FAULTS:
        if not any(witnessed(one, run, run.events()) for one in struck if one.kind == kind):
            found.append(f"{kind}: nothing shows that it ever happened, so the soak proves nothing about it")
    counters = counters_of(run)
    if counters["leased"] != counters["trained"] + counters["rejected"] + counters["requeued"]:
        found.append(f"the lease counters do not balance: {counters}")
    if counters["in_flight"]:
        found.append(f"{counters['in_flight']} groups are in flight after the end")
    found += [f"{path} was left" for path in _leftovers(run.folder)]
    return found + _unexplained_ends(run, struck)


def counters_of(run: Run) -> dict[str, int]:
    """The run's own lease counters at its end."""
    counters: dict[str, int] = json.loads((run.folder / "summary.json").read_text())["counters"]
    return counters


def _leftovers(folder: Path) -> list[Path]:
    half = [path for path in folder.rglob("*") if path.name.endswith(".partial") or path.name.startswith("tmp.")]
    return half + list((folder / "spool").iterdir())


def _unexplained_ends(run: Run, struck: Sequence[Struck]) -> list[str]:
    """A life may end because its driver, learner or pool was killed, and for no other reason."""
    fatal = {one.life for one in struck if any(word in one.kind for word in ("driver", "learner", "pool"))}
    return [
        f"life {number} of the run ended with exit code {life.code}, but its driver, learner and pool were let be"
        for number, life in enumerate(run.lives[:-2])
        if number not in fatal
    ]


def tables(run: Run, struck: Sequence[Struck]) -> None:
    """Prints what was done, what the event log says of it, and where every group ended."""
    console, events = Console(width=110), run.events()
    faults = Table("what was done", "times", "witnessed", title="faults")
    for kind in FAULTS:
        mine = [one for one in struck if one.kind == kind]
        faults.add_row(kind, str(len(mine)), str(sum(witnessed(one, run, events) for one in mine)))
    console.print(faults)
    counters = counters_of(run)
    counters_table = Table(
        "leased", "=", "trained", "+", "rejected", "+", "requeued", "+", "in flight", "replayed", title="groups"
    )
    counters_table.add_row(
        str(counters["leased"]),
        "=",
        str(counters["trained"]),
        "+",
        str(counters["rejected"]),
        "+",
        str(counters["requeued"]),
        "+",
        str(counters["in_flight"]),
        str(counters["replayed"]),
    )
    console.print(counters_table)
    lives = Counter(str(life.code) for life in run.lives)
    console.print(
        f"{len(run.lives)} lives of the run, by exit code: "
        + ", ".join(f"{count} × {code}" for code, count in sorted(lives.items()))
    )
    console.print(report(audit.audited(run.folder / EVENTS)))
