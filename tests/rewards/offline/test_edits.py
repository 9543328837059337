import json

import numpy as np
import pytest
from PIL import Image

from editing.manifest import ManifestDataset
from editing.task import TaskError
from rewards.offline.edits import EditFiles, EditsError, read_manifest
from tests.rewards.offline.edit_files import SIDE, write_edits


def rewrite(path, change):
    """The manifest with each task line changed."""
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *(json.dumps(change(json.loads(line))) for line in lines)]) + "\n")


def test_a_manifest_is_read_with_its_edits(tmp_path):
    path = write_edits(tmp_path, sources=2, candidates=3)
    groups = read_manifest(tmp_path)
    assert groups == read_manifest(path)
    assert [files.name for files in groups] == ["task-0", "task-1"]
    task, images = groups[1].load()
    assert task.instruction == "paint the box red" and task.edit_mask.sum() == 8 * 12 and groups[1].masked
    assert images.shape == (3, *SIDE, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[2], np.asarray(Image.open(tmp_path / "edited_1_2.png")))


def test_the_same_manifest_trains(tmp_path):
    assert len(ManifestDataset(write_edits(tmp_path))) == 3


def test_one_edit_per_line_is_the_same_group(tmp_path):
    path = write_edits(tmp_path, sources=2, candidates=3)
    wanted = [files.edited for files in read_manifest(path)]
    header, *lines = path.read_text().splitlines()
    single = [
        json.dumps({**json.loads(line), "id": f"{n}-{e}", "edited": e})
        for n, line in enumerate(lines)
        for e in json.loads(line)["edited"]
    ]
    path.write_text("\n".join([header, *single]))
    assert [files.edited for files in read_manifest(path)] == wanted


def test_other_instructions_and_masks_are_other_groups(tmp_path):
    path = write_edits(tmp_path, sources=1, candidates=2)
    header, line = path.read_text().splitlines()
    runs = {"size": list(SIDE), "counts": [0, SIDE[0] * 4, SIDE[0] * 28]}
    other = [json.loads(line), json.loads(line), json.loads(line)]
    other[1]["instruction"] = "paint it blue"
    other[2].pop("mask")
    other[2]["mask_rle"] = runs
    path.write_text("\n".join([header, *map(json.dumps, other)]))
    groups = read_manifest(path)
    assert len(groups) == 3
    assert groups[2].load()[0].edit_mask.sum() == SIDE[0] * 4


def test_without_a_mask_everything_may_change(tmp_path):
    path = write_edits(tmp_path, header=False)
    path.write_text(
        "\n".join(
            json.dumps({k: v for k, v in json.loads(line).items() if k != "mask"})
            for line in path.read_text().splitlines()
        )
    )
    files = read_manifest(path)[0]
    assert not files.masked and files.load()[0].edit_mask.all()


def test_polarity_is_stated_or_asked_for(tmp_path):
    path = write_edits(tmp_path, header=False)
    with pytest.raises(EditsError, match="mask_polarity is not stated"):
        read_manifest(path)
    assert read_manifest(path, "edit_is_black")[0].load()[0].edit_mask.sum() == SIDE[0] * SIDE[1] - 8 * 12
    with pytest.raises(EditsError, match="header says mask_polarity edit_is_white, the argument says edit_is_black"):
        read_manifest(write_edits(tmp_path), "edit_is_black")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"edited": None}, "line 2: the key 'edited' is missing"),
        ({"edited": []}, "edited: expected a path or a list of paths, not empty"),
        ({"edited": 3}, "edited: expected a path or a list of paths"),
        ({"edited": ["gone.png"]}, "edited must be a file; 'gone.png' is none"),
        ({"edited": ["../x.png"]}, "edited must stay inside the root"),
        ({"edited": ["mask.txt"]}, "must be a PNG, JPEG or WebP"),
        ({"edited": ["small.png"]}, "must have the size of the upright source, 32 × 24; it has 5 × 4"),
        ({"edted": "a.png"}, "did you mean 'edited'"),
        ({"mask": "small.png"}, "must have the size of the upright source"),
    ],
)
def test_faulty_lines_are_named(tmp_path, change, sentence):
    path = write_edits(tmp_path, sources=2)
    (tmp_path / "mask.txt").write_text("no image")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "small.png")
    rewrite(path, lambda line: {**line, **change} if line["id"] == "task-0" else line)
    with pytest.raises(EditsError) as caught:
        read_manifest(path)
    assert sentence in str(caught.value) and str(caught.value).count("\n") == 1


def test_what_is_no_manifest(tmp_path):
    with pytest.raises(EditsError, match=r"manifest\.jsonl cannot be read: No such file"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("\n")
    with pytest.raises(EditsError, match="there is no line with edits"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"locus_manifest": 2}\n')
    with pytest.raises(EditsError, match="header: locus_manifest: expected 1"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"locus_manifest": 1, "root": ".."}\n')
    with pytest.raises(EditsError, match="expected a folder inside the manifest's folder"):
        read_manifest(tmp_path)


def test_many_faults_are_counted(tmp_path):
    (tmp_path / "manifest.jsonl").write_text("{}\n" * 14)
    with pytest.raises(EditsError, match="and 4 more"):
        read_manifest(tmp_path)


def test_files_of_a_command_line(tmp_path):
    write_edits(tmp_path)
    files = EditFiles(
        "a", tmp_path / "source_0.png", "x", (tmp_path / "edited_0_0.png",), target=tmp_path / "edited_0_1.png"
    )
    task, _ = files.load()
    np.testing.assert_array_equal(task.target, np.asarray(Image.open(tmp_path / "edited_0_1.png")))
    with pytest.raises(TaskError, match=r"there is none"):
        EditFiles("a", tmp_path / "nope.png", "x", ()).load()
