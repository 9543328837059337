"""`python -m learner.audit RUN`: proves the promises of a run again, from its diary alone.

The diary (`events.jsonl`) says what happened to every lease. This reads it as a sceptic would: nothing of the
program that wrote it is used, and what does not add up is a fault.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.output import protect_output
from configs.paths import path_argument
from configs.run_files import EVENTS
from learner.events import read_events

Event = Mapping[str, Any]

PROMISES = {
    "log": "the diary is whole: every line is there, once and in order",
    "P1": "no group is trained on twice, and every step has all its groups",
    "P2": "no group is lost silently: every lease ends in one way, and the counts add up",
    "P3": "no group is older than cluster.staleness when it is trained on",
    "P4": "a group is made by one process under one published version, and a version has one set of weights",
    "P5": "what was trained on could be taken again: it was on disk before, or the diary says why not",
}
COUNTERS = ("leased", "trained", "rejected", "requeued", "in_flight", "replayed")
MAX_SHOWN = 5


@dataclass
class _Group:
    """One lease of the process that the diary tells of at the moment."""

    version: int
    made: int | None = None  # version under which it was generated
    end: str = ""  # trained, rejected or requeued
    kept: bool = False  # on disk, or known not to be
    replayed: bool = False  # taken again from disk


@dataclass
class Audit:
    """Follows a diary event by event and collects faults by promise.

    `trained` holds what is in the surviving weights: a resume from step s forgets what came after s steps. The counters
    of a diary's steps are of these weights too: a resume goes on with those that there were after s steps.
    """

    faults: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in PROMISES})
    counts: Counter[str] = field(default_factory=Counter)
    trained: dict[tuple[int, int], str] = field(default_factory=dict)  # (step, slot) -> group
    weights: dict[int, str] = field(default_factory=dict)  # version -> fingerprint
    _groups: dict[str, _Group] = field(default_factory=dict)  # of this process
    _sizes: Counter[int] = field(default_factory=Counter)  # step -> groups it was trained on
    _made: dict[str, int] = field(default_factory=dict)  # group -> version it was last generated under, ever
    _books: dict[int, dict[str, int]] = field(default_factory=dict)  # steps done -> counters then
    _before: Counter[str] = field(default_factory=Counter)  # counters that this process began with
    _limit: int = 0  # cluster.staleness
    _width: int = 0  # learner.groups_per_step
    _published: int | None = None
    _expected: int = 0
    _finished: bool = False

    def follow(self, event: Event) -> None:
        """Takes the next event; an event that lacks a field is a fault of the diary."""
        if event.get("seq") != self._expected:
            self._fault("log", f"expected line {self._expected}, seen {event.get('seq')}")
        self._expected = event["seq"] + 1 if isinstance(event.get("seq"), int) else self._expected + 1
        if self._expected == 1 and event.get("event") != "started":
            self._fault("log", f"expected the first line to say that the run started, seen {event.get('event')}")
        handler = getattr(self, f"_on_{event.get('event')}", None)
        self._finished = event.get("event") == "finished"
        if handler is None:
            return
        try:
            handler(event)
        except (KeyError, TypeError, ValueError) as error:
            self._fault("log", f"line {event.get('seq')} ({event.get('event')}) cannot be read: {error!r}")

    def close(self) -> None:
        """The diary ends here."""
        if self._expected == 0:
            self._fault("log", "there is no line in it")
        in_flight = [name for name, group in self._groups.items() if not group.end]
        if self._finished and in_flight:
            self._fault("P2", f"the run finished, but {len(in_flight)} groups have no end, such as {in_flight[0]}")
        self.counts["in flight at the end"] = len(in_flight)
        self._steps_are_whole(final=True)

    def _fault(self, promise: str, sentence: str) -> None:
        self.faults[promise].append(sentence)

    def _on_started(self, event: Event) -> None:
        if self._expected > 1:
            self._fault("log", f"line {event['seq']} starts the run again")
        self._begin(event)

    def _on_resumed(self, event: Event) -> None:
        self.counts["resumes"] += 1
        lost = sum(not group.end for group in self._groups.values())
        self.counts["in flight when a process ended"] += lost
        self._steps_are_whole(final=False)
        step = int(event["step"])
        if step > self._steps_done():
            self._fault("P1", f"resumed after {step} steps, but only {self._steps_done()} were trained")
        undone = [place for place in self.trained if place[0] >= step]
        self.counts["undone by a resume"] += len(undone)
        for place in undone:
            del self.trained[place]
        self._sizes = Counter(place[0] for place in self.trained)
        self._before = Counter(self._books.get(step, {}))
        # Nobody waits for what was in flight then any more.
        self._before["requeued"] += self._before.pop("in_flight", 0)
        # Version s must come back with the weights it had; later ones are made anew.
        self.weights = {version: sha for version, sha in self.weights.items() if version <= step}
        self._begin(event)

    def _begin(self, event: Event) -> None:
        self._limit, self._width = int(event["staleness"]), int(event["groups_per_step"])
        self._groups, self._published = {}, None

    def _counters(self) -> dict[str, int]:
        ends = Counter(group.end or "in_flight" for group in self._groups.values())
        now = {"leased": len(self._groups), **ends, "replayed": sum(g.replayed for g in self._groups.values())}
        return {name: self._before[name] + now.get(name, 0) for name in COUNTERS}

    def _on_published(self, event: Event) -> None:
        version, fingerprint = int(event["version"]), str(event["fingerprint"])
        if self.weights.setdefault(version, fingerprint) != fingerprint:
            self._fault("P4", f"version {version} was published with other weights before")
        if version != self._steps_done():
            self._fault("P4", f"version {version} was published after {self._steps_done()} steps")
        self._published = version

    def _on_leased(self, event: Event) -> None:
        name, version = str(event["group"]), int(event["version"])
        self.counts["leased"] += 1
        if name in self._groups:
            self._fault("P2", f"group {name} was leased twice")
        if version != self._published:
            self._fault("P4", f"group {name} was leased under version {version}, published was {self._published}")
        self._groups[name] = _Group(version)

    def _on_replayed(self, event: Event) -> None:
        name, version = str(event["group"]), int(event["version"])
        self.counts["replayed"] += 1
        if name in self._groups:
            self._fault("P2", f"group {name} was leased and taken from the spool")
        if self._published is None:
            self._fault("P4", f"group {name} was taken from the spool before the weights were published")
        if self._made.get(name) != version:
            self._fault("P4", f"group {name} was taken from the spool as of version {version}, but it was generated "
                              f"under {self._made.get(name)}")
        self._groups[name] = _Group(version, made=version, kept=True, replayed=True)

    def _on_spooled(self, event: Event) -> None:
        name = str(event["group"])
        if name not in self._groups:
            self._fault("P5", f"group {name} was spooled, but never leased")
        else:
            self._groups[name].kept = True

    _on_not_spooled = _on_spooled

    def _on_generated(self, event: Event) -> None:
        name, version = str(event["group"]), int(event["version"])
        group = self._groups.get(name)
        if group is None:
            self._fault("P2", f"group {name} was generated, but never leased")
            return
        if group.end:  # late: its lease was given up meanwhile
            return
        if group.made is not None:
            self._fault("P4", f"group {name} was generated twice")
        if version != group.version:
            self._fault("P4", f"group {name} was leased under version {group.version} and generated under {version}")
        group.made = self._made[name] = version

    def _on_trained(self, event: Event) -> None:
        name, step, version = str(event["group"]), int(event["step"]), int(event["version"])
        place = (int(name.split(".")[0]), int(name.split(".")[1]))
        self._end(name, "trained")
        if place[0] != step:
            self._fault("P1", f"group {name} was trained on in step {step}")
        if place in self.trained:
            self._fault("P1", f"slot {place[1]} of step {place[0]} was trained on twice: {self.trained[place]}, {name}")
        self.trained[place] = name
        if not 0 <= step - version <= self._limit:
            self._fault("P3", f"group {name} was {step - version} steps old, the limit is {self._limit}")
        group = self._groups.get(name)
        if group is not None and group.made != version:
            self._fault("P4", f"group {name} was generated under version {group.made} and trained on as {version}")
        if group is not None and not group.kept:
            self._fault("P5", f"group {name} was trained on, but never spooled")
        self._sizes[place[0]] += 1
        if self._sizes[place[0]] == self._width:
            self._books[place[0] + 1] = self._counters()

    def _on_rejected(self, event: Event) -> None:
        self._end(str(event["group"]), "rejected")

    def _on_requeued(self, event: Event) -> None:
        self._end(str(event["group"]), "requeued")

    def _on_step(self, event: Event) -> None:
        counters, mine = dict(event["counters"]), self._counters()
        if counters != mine:
            self._fault("P2", f"step {event['step']} counted {counters}, the lines before it say {mine}")
        if int(event["step"]) != self._steps_done():
            self._fault("P1", f"step {event['step']} ended, but {self._steps_done()} steps were trained")

    def _on_finished(self, event: Event) -> None:
        if int(event["step"]) != self._steps_done():
            self._fault("P1", f"the run finished after {event['step']} steps, but {self._steps_done()} were trained")

    def _end(self, name: str, how: str) -> None:
        self.counts[how] += 1
        group = self._groups.get(name)
        if group is None:
            self._fault("P2", f"group {name} was {how}, but never leased")
        elif group.end:
            self._fault("P2", f"group {name} was {group.end} and then {how}")
        else:
            group.end = how

    def _steps_done(self) -> int:
        return 1 + max((step for step, _ in self.trained), default=-1)

    def _steps_are_whole(self, final: bool) -> None:
        """Every trained step has all its slots. A crash may have cut off the telling of the last one before a resume,
        which then undoes it."""
        told = self._steps_done() - (0 if final and self._finished else 1)
        for step in range(told):
            if self._sizes[step] != self._width:
                self._fault("P1", f"step {step} was trained on {self._sizes[step]} groups instead of {self._width}")


def audited(events: Iterable[Event]) -> Audit:
    """The audit of a whole diary."""
    audit = Audit()
    for event in events:
        audit.follow(event)
    audit.close()
    return audit


def report(audit: Audit) -> Table:
    """A row per promise: whether it holds, and the first faults."""
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
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the verdicts; 0 when every promise holds, 1 when one is broken, 2 when there is no diary."""
    parser = argparse.ArgumentParser(
        prog="python -m learner.audit", description="Prove a run's promises again, from its diary alone.")
    parser.add_argument("run", type=path_argument, help="folder of the run, such as runs/quickstart")
    run = parser.parse_args(arguments).run
    diary = run / EVENTS
    if not diary.is_file():
        print(f"expected the folder of a run, but there is no {diary}", file=sys.stderr)
        return 2
    audit = audited(read_events(diary))
    Console().print(report(audit))
    return 1 if any(audit.faults.values()) else 0


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
