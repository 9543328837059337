"""The event log is appended to, survives a cut line, and counts on."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest

from learner.state.event_log import FIRST, EventLog, digest, read_events
from learner.state.event_record import EventError
from learner.state.event_types import RECORDS, Event


def test_numbers_go_on_over_resumes_and_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write("finished", step=0)
        log.write("duplicate", group="000000.000.0")
    before = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "event": "trai')
    with EventLog(path) as log:
        log.write("finished", step=1)
        log.write("duplicate", group="000000.000.1")
    assert path.read_bytes().startswith(before)
    events = list(read_events(path))
    assert [e["seq"] for e in events] == [0, 1, 2, 3]
    assert [e["event"] for e in events] == ["finished", "duplicate"] * 2


def test_a_line_is_in_the_file_when_write_returns(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.write("finished", step=3)
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 3
    log.close()


def test_every_line_says_which_line_it_was_written_after(tmp_path):
    path = tmp_path / "events.jsonl"
    for step in range(2):
        with EventLog(path) as log:
            log.write("finished", step=step)
        with path.open("ab") as file:
            file.write(b'{"seq": 1, "ti' if step == 0 else b"")
    first, torn, second = path.read_bytes().splitlines()
    assert json.loads(first)["previous"] == FIRST and json.loads(second)["previous"] == digest(first)
    assert torn == b'{"seq": 1, "ti'


@pytest.mark.parametrize(
    ("event", "fields", "sentence"),
    [
        ("finnished", {"step": 1}, "expected an event of learner.state.event_types.RECORDS, got 'finnished'"),
        ("finished", {}, "step: expected a value, got none"),
        ("finished", {"step": 1, "pid": 7}, "pid: expected no such field, got 7"),
        ("finished", {"step": "1"}, "step: expected a whole number, got '1'"),
        ("finished", {"step": True}, "step: expected a whole number, got True"),
        ("finished", {"step": -1}, "step: expected at least 0, got -1"),
        ("finished", {"step": 10**13}, "step: expected at most 1000000000000, got 10000000000000"),
        ("spooled", {"group": "000000.000.0", "seconds": float("nan")}, "seconds: expected a finite number, got nan"),
        ("spooled", {"group": "000000.000.0", "seconds": float("inf")}, "seconds: expected a finite number, got inf"),
        ("duplicate", {"group": "0.0.0"}, "group: expected text of the form"),
        ("published", {"version": 0, "fingerprint": "0" * 32, "modules": 0}, "modules: expected at least 1, got 0"),
    ],
)
def test_what_is_not_described_is_not_written(tmp_path, event, fields, sentence):
    with EventLog(tmp_path / "events.jsonl") as log, pytest.raises(EventError, match=re.escape(sentence)):
        log.write(event, **fields)
    assert (tmp_path / "events.jsonl").read_bytes() == b""


def test_every_event_has_a_record():
    assert list(RECORDS) == list(get_args(Event))


@pytest.mark.parametrize(
    "line", [b"5", b"[]", b'{"event": "finished"}', b'{"seq": "0", "event": "x"}', b"[" * 99_999 + b"]" * 99_999]
)
def test_a_line_that_is_no_event_is_refused_with_a_sentence(tmp_path, line):
    path = tmp_path / "events.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(EventError, match=r"line 1 of the event log .* is not an event: expected a JSON object"):
        EventLog(path)


def test_a_log_that_is_a_folder_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(EventError, match="cannot be read: Is a directory"):
        EventLog(tmp_path)


def test_nothing_follows_the_end_of_a_process(tmp_path):
    for _ in range(2):
        with EventLog(tmp_path / "events.jsonl") as log:
            log.write("failed", error="RunFailed", reason="it is over")
            log.write("finished", step=1)  # from a thread that has not heard of it
    assert [event["event"] for event in read_events(tmp_path / "events.jsonl")] == ["failed", "failed"]


def test_threads_write_whole_lines_in_one_chain(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda group: log.write("requeued", group=f"{group:06}.000.0", reason="x"), range(400)))
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["seq"] for event in events] == list(range(400))
    assert [event["previous"] for event in events[1:]] == [digest(line) for line in lines[:-1]]
