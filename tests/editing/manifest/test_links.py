"""Data sets whose files are links, as caches and version control of data make them."""

import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from editing.manifest import ManifestDataset, ManifestError
from editing.manifest.paths import Root
from editing.task import TaskError
from editing.validate import main
from rewards.offline.edits import EditsError, read_manifest

LINES = [
    {"locus_manifest": 1, "mask_polarity": "edit_is_white"},
    {"source": "a.png", "mask": "m.png", "instruction": "make it red", "edited": "a.png"},
]


@pytest.fixture
def real(tmp_path):
    """A data set of plain files."""
    folder = tmp_path / "real"
    folder.mkdir()
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 4:20] = 255
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / "a.png")
    Image.fromarray(mask).save(folder / "m.png")
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    return folder


def linked_files(real, place):
    """DVC and git-annex: the manifest is a file, images are links into a store."""
    place.mkdir()
    shutil.copy(real / "manifest.jsonl", place)
    for name in ("a.png", "m.png"):
        (place / name).symlink_to(real / name)


def linked_folder(real, place):
    place.mkdir()
    (place / "images").symlink_to(real)
    text = (real / "manifest.jsonl").read_text().replace('"a.png', '"images/a.png').replace('"m.png', '"images/m.png')
    (place / "manifest.jsonl").write_text(text)


def linked_root(real, place):
    place.mkdir()
    (place / "images").symlink_to(real)
    (place / "manifest.jsonl").write_text("\n".join(map(json.dumps, [{**LINES[0], "root": "images"}, LINES[1]])))


def hub_cache(real, place):
    """All are links, the manifest too, to files whose names are hashes."""
    blobs = place.parent / "blobs"
    blobs.mkdir()
    place.mkdir()
    for number, name in enumerate(("a.png", "m.png", "manifest.jsonl")):
        shutil.copy(real / name, blobs / f"{number:040}")
        (place / name).symlink_to(os.path.join("..", "blobs", f"{number:040}"))


LAYOUTS = [linked_files, linked_folder, linked_root, hub_cache]


@pytest.mark.parametrize("make", LAYOUTS)
def test_links_out_of_the_root_are_refused_with_the_switch_that_follows_them(make, real, tmp_path, capsys):
    place = tmp_path / "linked"
    make(real, place)
    with pytest.raises(ManifestError, match=r"is a link to .*set data\.follow_links to true") as caught:
        ManifestDataset(place / "manifest.jsonl")
    (named,) = re.findall("is a link to (\\S+);", str(caught.value))
    assert os.path.exists(named) and not named.startswith(str(place))
    dataset = ManifestDataset(place / "manifest.jsonl", follow_links=True)
    assert np.array_equal(dataset[0].source, ManifestDataset(real / "manifest.jsonl")[0].source)
    assert dataset.fingerprint == ManifestDataset(real / "manifest.jsonl").fingerprint
    assert main([str(place / "manifest.jsonl")]) == 1 and main([str(place / "manifest.jsonl"), "--follow-links"]) == 0
    assert "valid lines" in capsys.readouterr().out
    with pytest.raises(EditsError, match="--follow-links"):
        read_manifest(place / "manifest.jsonl")
    assert len(read_manifest(place / "manifest.jsonl", follow_links=True)) == 1


def test_a_mounted_volume_whose_links_stay_inside_needs_no_switch(real, tmp_path):
    volume = tmp_path / "volume"  # what Kubernetes makes of a config map or secret
    shutil.copytree(real, volume / "..2026_11_29")
    (volume / "..data").symlink_to("..2026_11_29")
    for name in ("a.png", "m.png", "manifest.jsonl"):
        (volume / name).symlink_to(os.path.join("..data", name))
    assert len(ManifestDataset(volume / "manifest.jsonl")) == 1
    assert Root(volume).file("source", "..data/a.png") == volume / "..2026_11_29" / "a.png"


@pytest.mark.parametrize("text", ["../real/a.png", "images/../../real/a.png", "images/../a.png/../../real/a.png"])
@pytest.mark.parametrize("follow", [False, True])
def test_a_path_as_it_is_written_leads_nowhere_else(real, tmp_path, text, follow):
    place = tmp_path / "linked"
    linked_folder(real, place)
    with pytest.raises(TaskError, match=r"must stay inside the root .* leads out of it"):
        Root(place, follow).file("source", text)
    with pytest.raises(TaskError, match=r"'images/\.\./a\.png' is none under"):  # beside the link
        Root(place, follow).file("source", "images/../a.png")


@pytest.mark.parametrize("follow", [False, True])
def test_a_link_whose_file_was_not_fetched_says_so(tmp_path, follow):
    (tmp_path / "a.png").symlink_to("objects/12/ab.png")
    with pytest.raises(TaskError, match=r"'a\.png' is a link to .*/objects/12/ab\.png, and there is no file"):
        Root(tmp_path, follow).file("source", "a.png")


def test_a_manifest_that_is_a_link_lies_where_the_link_does(real, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "manifest.jsonl").symlink_to(real / "manifest.jsonl")
    with pytest.raises(ManifestError, match=rf"none under {tmp_path}/here \(the manifest is a link to {real}/manif"):
        ManifestDataset(tmp_path / "here" / "manifest.jsonl")


def test_a_loop_of_links_is_no_usable_path(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for follow in (False, True):
        with pytest.raises(TaskError, match=r"source must be"):
            Root(tmp_path, follow).file("source", "a/x.png")
