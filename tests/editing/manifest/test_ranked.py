"""Ranked edits in a manifest: read in order, validated like targets, and kept by every form of it."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from editing.manifest import ManifestDataset
from editing.manifest.packed import PackedManifest
from editing.resize import resize_task
from editing.task import TaskError


@pytest.fixture
def write(tmp_path):
    for number, size in enumerate([(20, 30)] * 5 + [(20, 31)]):
        image = np.full((*size, 3), 40 * number, np.uint8)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 4:20] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")

    def written(*ranked):
        lines = [{"locus_manifest": 1, "mask_polarity": "edit_is_white"}]
        for value in ranked:
            line = {"source": "0.png", "mask": "m.png", "instruction": "make it red"}
            lines.append(line if value is None else {**line, "ranked": value})
        (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return ManifestDataset(tmp_path / "m.jsonl", max_faulty_fraction=0.9, cache_folder=tmp_path / "cache")

    return written


def shades(task):
    return [int(edit[0, 0, 0]) for edit in task.ranked]


def test_they_are_read_in_order_and_resized_with_the_task(write):
    dataset = write(["3.png", "1.png", "2.png"], None)
    assert shades(dataset[0]) == [120, 40, 80] and dataset[1].ranked == ()
    packed = PackedManifest(dataset)
    assert shades(packed[0]) == [120, 40, 80] and packed[1].ranked == ()
    small = resize_task(packed[0], 16, 8)
    assert shades(small) == [120, 40, 80] and all(edit.shape == small.source.shape for edit in small.ranked)


def test_another_order_is_other_data(write):
    one = write(["1.png", "2.png"]).fingerprint
    assert one != write(["2.png", "1.png"]).fingerprint and one == write(["1.png", "2.png"]).fingerprint


@pytest.mark.parametrize(
    ("ranked", "sentence"),
    [
        ("1.png", r"ranked: expected a list of at least two paths, the best edit first, .* got \'1.png\'"),
        (["1.png"], r"ranked: expected a list of at least two paths"),
        ([], r"ranked: expected a list of at least two paths"),
        (["1.png", 2], r"ranked: expected a non-empty text, got 2"),
        (["1.png", "no.png"], r"ranked must be a file"),
        (["1.png", "../1.png"], r"ranked"),
        (["1.png", "5.png"], r"ranked\[1\]: expected the size of the source, \[20, 30\], got \[20, 31\]"),
        (["1.png", "2.png", "1.png"], r"ranked: expected different images, got the same at places 0 and 2"),
    ],
)
def test_a_faulty_ranking_is_a_faulty_line(write, ranked, sentence):
    dataset = write(ranked, ["1.png", "2.png"])
    (fault,) = dataset.faults
    assert fault.line == 2 and re.search(sentence, fault.reason), fault.reason


def test_an_edit_that_changes_is_checked_again_and_never_trained_on_unseen(write, tmp_path):
    dataset = write(["1.png", "2.png"])
    Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(tmp_path / "2.png")
    with pytest.raises(TaskError, match=r"ranked\[1\] .* has changed since the manifest was opened"):
        dataset[0]
    assert shades(write(["1.png", "2.png"])[0]) == [40, 7]
