import json
import subprocess
import sys

import pytest

from editing.manifest.text import read_lines
from editing.task import TaskError

LINES = [{"locus_manifest": 1}, {"id": "größe", "source": "a.png"}, {"id": 2, "source": "b.png"}]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("before", [b"", b"\n ", b"\xef\xbb\xbf"])
def test_a_json_array_is_refused_with_a_command_that_makes_lines_of_it(tmp_path, indent, before):
    path = tmp_path / "my manifest.jsonl"
    path.write_bytes(before + json.dumps(LINES, indent=indent).encode())
    with pytest.raises(TaskError, match="this is a JSON array; a manifest is JSONL, one object per line") as caught:
        read_lines(path)
    command = str(caught.value).partition("Type: ")[2]
    assert command.startswith("python -c ")
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True)
    made = read_lines(tmp_path / "my manifest.lines.jsonl")
    assert [json.loads(text) for _, text in made] == LINES


def test_one_object_over_several_lines_is_said_to_be_one(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"data": LINES}, indent=2))
    with pytest.raises(TaskError, match="one JSON object over several lines"):
        read_lines(path)


def test_utf16_is_said_once(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(LINES[0]), encoding="utf-16")
    with pytest.raises(TaskError, match="must be UTF-8; it is UTF-16"):
        read_lines(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_ends_are_read(tmp_path, end):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes("".join(json.dumps(line) + end + end for line in LINES).encode())
    assert [(n, json.loads(text)) for n, text in read_lines(path)] == [(1, LINES[0]), (3, LINES[1]), (5, LINES[2])]


def test_broken_first_lines_leave_the_rest_to_be_judged_line_by_line(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_text('[{"a": 1},\n{"a": 2}\n' + "[" * 100_000)
    assert [n for n, _ in read_lines(path)] == [1, 2, 3]
