"""A small file is there whole, or as it was before."""

import os
import threading

import pytest

from locus.common.files import write_whole


def fail(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("content", ["é\n", b"\0\xff", "", b""])
def test_the_content_takes_the_place_of_the_old_one(tmp_path, content, several):
    for before in ("", "much longer than what comes after it"):
        (tmp_path / "a.json").write_text(before)
        write_whole(tmp_path / "a.json", content, several_writers=several)
        assert (tmp_path / "a.json").read_bytes() == (content.encode() if isinstance(content, str) else content)
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_refusal_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, several):
    (tmp_path / "a").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            write_whole(tmp_path / "a", "new", several_writers=several)
    assert (tmp_path / "a").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(OSError, match="No such file"):
        write_whole(tmp_path / "nowhere" / "a", "new", several_writers=several)


def test_what_a_killed_process_left_is_replaced_by_the_next_write(tmp_path):
    (tmp_path / ".a.partial").write_text("half")
    write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_several_writers_do_not_meet(tmp_path):
    contents = [letter * 100_000 for letter in "abcd"]
    threads = [
        threading.Thread(
            target=lambda one=one: [write_whole(tmp_path / "x", one, several_writers=True) for _ in range(10)]
        )
        for one in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "x").read_text() in contents and [path.name for path in tmp_path.iterdir()] == ["x"]
