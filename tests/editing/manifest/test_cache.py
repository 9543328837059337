"""Checking a manifest once: what is kept, when it holds, and that nothing wrong comes of it."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from editing.manifest import ManifestDataset, dataset
from editing.manifest.notes import Note
from editing.task import TaskError

COUNT = 40


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 4:20] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    turned = Image.Exif()
    turned[0x0112] = 3
    lines = [{"locus_manifest": 1, "mask_polarity": "edit_is_white"}]
    for number in range(COUNT):
        image = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
        image.save(tmp_path / f"{number}.png", exif=turned.tobytes() if number == 3 else b"")
        lines.append({"source": f"{number}.png", "mask": "m.png", "instruction": "make it red"})
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "manifest.jsonl"


@pytest.fixture
def decoded(monkeypatch):
    """Line numbers that were decoded since it was last cleared."""
    lines: list[int] = []
    load = dataset._load

    def counting(record, *arguments, **named):
        lines.append(record.line)
        return load(record, *arguments, **named)

    monkeypatch.setattr(dataset, "_load", counting)
    return lines


def open_it(path, **arguments):
    return ManifestDataset(path, cache_folder=path.parent / "runs" / ".checked", max_faulty_fraction=0.5, **arguments)


def test_lines_are_decoded_once(path, decoded):
    first = open_it(path)
    assert len(decoded) == COUNT
    decoded.clear()
    second = open_it(path)
    assert decoded == []
    assert (second.items, second.fingerprint) == (first.items, first.fingerprint)
    assert second.items[3].notes == (Note.TURNED, Note.TURNED_MASK)
    assert np.array_equal(second[7].source, first[7].source)


def test_without_a_folder_everything_is_decoded_and_nothing_kept(path, decoded):
    for _ in range(2):
        assert len(ManifestDataset(path)) == COUNT
    assert len(decoded) == 2 * COUNT and not (path.parent / "runs").exists()


def test_only_what_changed_is_checked_again(path, decoded):
    open_it(path)
    with path.open("a") as file:
        file.write('\n{"source": "0.png", "mask": "m.png", "instruction": "a new one"}')
    Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(path.parent / "5.png")
    decoded.clear()
    again = open_it(path)
    assert sorted(decoded) == [7, COUNT + 2] and (again[5].source == 7).all()
    assert again.fingerprint == ManifestDataset(path).fingerprint


def test_a_file_of_the_same_size_and_time_is_not_taken_for_the_old_one(path, decoded):
    target = path.parent / "5.png"
    before = target.stat()
    open_it(path)
    content = bytearray(target.read_bytes())
    content[-20] ^= 1
    target.write_bytes(content)
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = target.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    decoded.clear()
    assert len(open_it(path).faults) == 1 and decoded == [7]


def test_faulty_lines_are_checked_every_time(path, decoded):
    (path.parent / "5.png").write_bytes(b"no image")
    for _ in range(2):
        decoded.clear()
        assert [fault.line for fault in open_it(path).faults] == [7]
    assert decoded == [7]
    (path.parent / "5.png").unlink()
    assert [fault.line for fault in open_it(path).faults] == [7]


def test_other_settings_are_another_check(path, decoded):
    open_it(path)
    decoded.clear()
    open_it(path, max_pixels=10_000)
    assert len(decoded) == COUNT
    with pytest.raises(dataset.ManifestError, match="at least one must be valid"):
        open_it(path, max_pixels=100)


@pytest.mark.parametrize("content", [b"", b"junk", b"\0" * 5000, b"{}\n" * 50, None, "cut"])
def test_a_cache_that_is_damaged_costs_only_time(path, decoded, content):
    first = open_it(path)
    (file,) = (path.parent / "runs" / ".checked").iterdir()
    rows = file.read_bytes()
    if content is None:  # right keys, wrong values
        content = b"\n".join(row[:32] + b'{"height": "tall"}' for row in rows.split(b"\n"))
    file.write_bytes(rows[: len(rows) // 2] if content == "cut" else content)
    decoded.clear()
    second = open_it(path)
    assert decoded and (second.items, second.fingerprint) == (first.items, first.fingerprint)
    decoded.clear()
    assert open_it(path).items == first.items and decoded == []


def test_what_a_doctored_cache_says_is_not_trained_on(path):
    open_it(path)
    (file,) = (path.parent / "runs" / ".checked").iterdir()
    right = ManifestDataset(path).items[0].digests["source"]
    file.write_bytes(file.read_bytes().replace(right.encode(), b"0" * 64))
    with pytest.raises(TaskError, match="has changed since the manifest was opened"):
        open_it(path)[0]


def test_a_folder_that_cannot_be_written_is_no_fault(path):
    (path.parent / "runs").write_text("a file")
    assert len(open_it(path)) == COUNT
