"""Event logs rewritten by an attacker who recomputes the digests."""

import json
from pathlib import Path

from learner.audit import audited
from learner.state.event_log import FIRST, digest, read_events


def read(folder):
    return list(read_events(folder / "events.jsonl"))


def write(folder, events) -> Path:
    """As they are: numbers and digests are what they were."""
    path = folder / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def forge(folder, events) -> Path:
    """With numbers and digests that are right again."""
    path, lines, previous = folder / "events.jsonl", [], FIRST
    for seq, event in enumerate(events):
        line = json.dumps({**event, "seq": seq, "previous": previous}).encode()
        lines.append(line + b"\n")
        previous = digest(line)
    path.write_bytes(b"".join(lines))
    return path


def told(path) -> str:
    """All faults, a line each, and how the log ends."""
    audit = audited(path)
    return "\n".join(
        [f"{promise}: {fault}" for promise, faults in audit.faults.items() for fault in faults] + [audit.end]
    )


def numbers(events, name) -> list[int]:
    """Where the events of a name are."""
    return [number for number, event in enumerate(events) if event["event"] == name]


def without(events, *names):
    return [event for event in events if event["event"] not in names]


def changed(events, name, nth=0, **fields):
    where = numbers(events, name)[nth]
    return [{**event, **fields} if number == where else event for number, event in enumerate(events)]


def inserted(events, where, *new):
    return [*events[:where], *new, *events[where:]]
