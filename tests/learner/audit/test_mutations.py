"""Whatever is changed in an event log whose digests are right again: a verdict, never a traceback, and no line can be
taken out unseen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.audit import audited
from learner.audit.rules import NO_RULE, Audit
from learner.state.event_types import RECORDS
from tests.learner.audit.doctor import forge, numbers, read

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["000000.000.0", "000001.001.1", "999999999999.999.0", "step_000002", "0" * 32, *RECORDS])
    | st.integers(-1, 4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated")


def is_clean(audit: Audit) -> bool:
    return audit.finished and not any(audit.faults.values())


def harmless(events) -> set[int]:
    """Lines that a process need not have reached before it ended: it failed, leased groups that had no end yet, told of
    its last step."""
    begins = [*numbers(events, "resumed"), len(events)]
    ended = {
        (event["group"], sum(where > begin for begin in begins))
        for where, event in enumerate(events)
        if event["event"] in ("trained", "rejected", "requeued")
    }
    failed = numbers(events, "failed")
    return {*failed, *(where - 1 for where in failed if events[where - 1]["event"] == "step")} | {
        where
        for where, event in enumerate(events)
        if "group" in event and (event["group"], sum(where > begin for begin in begins)) not in ended
    }


@pytest.mark.parametrize("which", ["finished", "resumed", "redone", "skipped", "went_back"])
def test_no_line_can_be_taken_out(which, request, folder):
    events = read(request.getfixturevalue(which))
    assert is_clean(audited(forge(folder, events)))
    unseen = [
        (where, events[where]["event"])
        for where in range(len(events))
        if is_clean(audited(forge(folder, [*events[:where], *events[where + 1 :]])))
    ]
    assert [one for one in unseen if one[0] not in harmless(events) and one[1] not in NO_RULE] == []


@pytest.mark.parametrize("which", ["finished", "resumed", "redone", "skipped", "went_back"])
def test_no_line_can_be_doubled_or_moved_to_the_front(which, request, folder):
    events = read(request.getfixturevalue(which))
    for where in range(1, len(events)):
        doubled = [*events[: where + 1], *events[where:]]
        moved = [events[where], *events[:where], *events[where + 1 :]]
        # Another machine's worker with the same process id, and a process that was killed at once, are possible.
        possible = events[where]["event"] in {"worker_started", "resumed", *NO_RULE}
        assert is_clean(audited(forge(folder, doubled))) == possible, where
        assert not is_clean(audited(forge(folder, moved))), where


@pytest.mark.parametrize("which", ["finished", "resumed", "redone", "went_back"])
@given(data=st.data())
def test_a_field_that_is_anything_else_is_no_traceback(which, request, folder, data):
    events = [dict(event) for event in read(request.getfixturevalue(which))]
    for _ in range(data.draw(st.integers(1, 3))):
        event = data.draw(st.sampled_from(events))
        name = data.draw(st.sampled_from([*sorted(event), "anything"]))
        event[name] = data.draw(JSON)
    path = forge(folder, events)
    assert isinstance(audited(path), Audit)


@given(data=st.data())
def test_bytes_that_are_anything_else_are_no_traceback(finished, folder, data):
    content = bytearray((finished / "events.jsonl").read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    path = folder / "events.jsonl"
    path.write_bytes(content)
    assert isinstance(audited(path), Audit)


def test_every_event_has_a_rule_or_is_said_to_need_none():
    handled = {event for event, handlers in Audit()._handlers.items() if handlers}
    assert not handled & NO_RULE and handled | NO_RULE == set(RECORDS)
