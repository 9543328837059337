"""Lines that are no events are named, whatever they are; what a crash cut off is not."""

import pytest

from learner.audit.report import main
from tests.learner.audit.doctor import told

NAMED = {
    b"5": "expected a JSON object, got b'5'",
    b"[]": "expected a JSON object, got b'[]'",
    b"null": "expected a JSON object, got b'null'",
    b"": "expected JSON, got b''",
    b"\0" * 40: r"expected JSON, got b'\x00\x00",
    b"garbage": "expected JSON, got b'garbage'",
    b"\xff\xfe{\x00}\x00": r"expected JSON, got b'\xff\xfe{\x00}\x00'",
    b'{"seq": 9}': "time: expected a value, got none",
    b'{"seq": 1e999, "time": 0, "previous": "0000000000000000", "event": "x"}': "seq: expected a whole number, got inf",
    b'{"seq": NaN}': "expected finite numbers, got NaN",
    b"[" * 99_999 + b"]" * 99_999: "nested too deeply",
    b'{"seq": ' + b"[" * 900 + b"]" * 900 + b"}": "seq: ",
    b'{"seq": ' + b"9" * 5000 + b"}": "expected JSON, got ",
}


@pytest.mark.parametrize("line", NAMED, ids=range(len(NAMED)))
@pytest.mark.parametrize("where", [0, 9, -1])
def test_a_line_that_is_no_event_is_named(line, where, finished, tmp_path):
    lines = (finished / "events.jsonl").read_bytes().splitlines()
    where = where % len(lines)
    (tmp_path / "events.jsonl").write_bytes(b"\n".join([*lines[:where], line, *lines[where:]]) + b"\n")
    said = told(tmp_path / "events.jsonl")
    assert NAMED[line] in said and f"log: line {where + 1}: " in said, said[:2000]


def test_a_key_that_is_there_twice_is_named(finished, tmp_path):
    text = (finished / "events.jsonl").read_text()
    (tmp_path / "events.jsonl").write_text(text.replace('"valid": 3', '"valid": 0, "valid": 3', 1))
    assert "the key 'valid' is there twice" in told(tmp_path / "events.jsonl")


def test_a_line_that_was_changed_is_named_by_the_digest_in_the_next(finished, tmp_path):
    lines = (finished / "events.jsonl").read_text().splitlines()
    (where,) = [number for number, line in enumerate(lines) if '"event": "finished"' in line]
    lines[where - 1] = lines[where - 1].replace('"tasks": 1', '"tasks":  1')
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    said = told(tmp_path / "events.jsonl").splitlines()
    assert len(said) == 2 and said[0].startswith(f"log: line {where + 1}: expected previous "), said


@pytest.mark.parametrize("kept", [1, 20, 60, 120])
def test_a_last_line_that_a_crash_cut_off_is_no_fault(kept, finished, tmp_path):
    lines = (finished / "events.jsonl").read_bytes().splitlines()
    (tmp_path / "events.jsonl").write_bytes(b"\n".join([*lines[:20], lines[20][:kept]]))
    said = told(tmp_path / "events.jsonl")
    assert said.startswith("not finished: ") and "\n" not in said


def test_a_line_that_is_cut_off_although_its_process_went_on_is_named(finished, tmp_path):
    lines = (finished / "events.jsonl").read_bytes().splitlines()
    (tmp_path / "events.jsonl").write_bytes(b"\n".join([*lines[:20], lines[20][:60], *lines[20:]]) + b"\n")
    assert "line 21: it is cut off, but the process that wrote it went on" in told(tmp_path / "events.jsonl")


@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * 4096, b"5\n", b"[]\n", b"\xff" * 99])
def test_a_file_that_is_no_event_log_is_no_traceback(content, tmp_path, capsys):
    (tmp_path / "events.jsonl").write_bytes(content)
    assert main([str(tmp_path)]) == 1
    assert "expected the run to start, got no event" in " ".join(capsys.readouterr().out.split())


def test_what_cannot_be_read_is_a_sentence(tmp_path, capsys):
    (tmp_path / "events.jsonl").mkdir()
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main([str(folder)]) == 2
        assert "expected the folder of a run, but " in capsys.readouterr().err
