"""The diary is appended to, survives a cut line, and counts on."""

import json

import pytest

from learner.events import EventLog, read_events


def test_numbers_go_on_over_resumes_and_a_torn_line_is_left_out(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write("started", config_hash="x")
        log.write("leased", group="000000.000.0")
    before = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "event": "trai')
    with EventLog(path) as log:
        log.write("resumed", step=0)
        log.write("leased", group="000000.000.1")
    assert path.read_bytes().startswith(before)
    events = list(read_events(path))
    assert [e["seq"] for e in events] == [0, 1, 2, 3]
    assert [e["event"] for e in events] == ["started", "leased", "resumed", "leased"]


def test_a_line_is_in_the_file_when_write_returns(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.write("started", seed=3)
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert json.loads(line)["seed"] == 3
    log.close()


def test_values_that_are_not_finite_are_refused(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log, pytest.raises(ValueError, match="not JSON compliant"):
        log.write("step", reward=float("nan"))
