"""The tasks of a run: splits of a manifest, sizes that the editor takes, and what is refused before anything starts."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from configs.schema import RunConfig
from editing.data import ResizedTasks, open_tasks, pixel_multiple
from editing.editors.base import EditorError
from editing.manifest import ManifestError
from editing.validate import main


def write_manifest(path, count, targets=()):
    """`count` images of 40 x 30 with a square mask; those of `targets` have one."""
    rng = np.random.default_rng(0)
    mask = np.zeros((30, 40), np.uint8)
    mask[8:20, 10:25] = 255
    Image.fromarray(mask).save(path.parent / "mask.png")
    lines = [{"locus_manifest": 1, "mask_polarity": "edit_is_white"}]
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path.parent / f"{index}.png")
        line = {"id": f"task-{index}", "source": f"{index}.png", "mask": "mask.png", "instruction": "make it red"}
        lines.append({**line, "target": f"{index}.png"} if index in targets else line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def config(editor, path, weights=None, **data) -> RunConfig:
    return RunConfig.model_validate(
        {
            "editor": {"path": str(editor)},
            "folder": str(path.parent / "runs"),
            "rewards": {"weights": weights or {"background_psnr": 1.0}},
            "data": {"type": "manifest", "path": str(path), "resolution": 32, **data},
        }
    )


def ids(tasks):
    return [tasks[index].task_id for index in range(len(tasks))]


@pytest.mark.parametrize(("fraction", "held_out"), [(0.0, 0), (0.01, 1), (0.2, 1), (0.5, 2), (0.9, 4)])
def test_the_last_lines_are_held_out_and_never_trained_on(tiny_kontext, tmp_path, fraction, held_out):
    path = write_manifest(tmp_path / "m.jsonl", 5)
    tasks = open_tasks(config(tiny_kontext, path, held_out_fraction=fraction))
    names = [f"task-{index}" for index in range(5)]
    assert (ids(tasks.train), ids(tasks.held_out)) == (names[: 5 - held_out], names[5 - held_out :])
    assert tasks.train.fingerprint != tasks.held_out.fingerprint


def test_a_second_manifest_is_held_out_whole(tiny_kontext, tmp_path):
    (tmp_path / "other").mkdir()
    train, held_out = write_manifest(tmp_path / "m.jsonl", 3), write_manifest(tmp_path / "other" / "m.jsonl", 2)
    tasks = open_tasks(config(tiny_kontext, train, held_out_path=str(held_out)))
    assert (len(tasks.train), len(tasks.held_out)) == (3, 2)


def test_images_have_about_the_asked_size_in_steps_that_the_editor_takes(tiny_kontext, tmp_path):
    assert pixel_multiple(str(tiny_kontext)) == 8  # VAE factor 4, packed 2 x 2
    tasks = open_tasks(config(tiny_kontext, write_manifest(tmp_path / "m.jsonl", 2)))
    task = tasks.train[0]
    assert task.source.shape == (24, 40, 3) and task.edit_mask.shape == (24, 40)
    assert tasks.train[0] is task  # a group's task is not decoded again and again
    other = ResizedTasks(tasks.train.source, tasks.train.indices, 64, 8)
    assert other.fingerprint != tasks.train.fingerprint and other[0].source.shape == (56, 72, 3)


def test_too_few_tasks_and_a_folder_that_is_no_editor_are_sentences(tiny_kontext, tmp_path):
    path = write_manifest(tmp_path / "m.jsonl", 1)
    with pytest.raises(ManifestError, match=r"data.path: .* has 1 valid task, too few to hold out"):
        open_tasks(config(tiny_kontext, path))
    with pytest.raises(EditorError, match=r"editor.path: expected a model folder"):
        open_tasks(config(tmp_path, path))


def test_a_reward_that_needs_targets_is_refused_before_the_run_when_training_lines_have_none(tiny_kontext, tmp_path):
    path, weights = write_manifest(tmp_path / "m.jsonl", 4, targets=(0, 2)), {"edit_psnr": 1.0}
    with pytest.raises(ManifestError, match=r"edit_psnr needs a target .* 1 of 3 in .* \(the first is line 3\)"):
        open_tasks(config(tiny_kontext, path, weights))
    open_tasks(config(tiny_kontext, path, {"edit_psnr": 0.0, "background_psnr": 1.0}))
    open_tasks(config(tiny_kontext, write_manifest(tmp_path / "n.jsonl", 4, targets=(0, 1, 2)), weights))


def test_skipped_lines_are_told_by_the_key_that_names_their_manifest(tiny_kontext, tmp_path):
    (tmp_path / "other").mkdir()
    train, held_out = write_manifest(tmp_path / "m.jsonl", 3), write_manifest(tmp_path / "other" / "m.jsonl", 2)
    sound = open_tasks(config(tiny_kontext, train, held_out_path=str(held_out)))
    assert {key: len(lines) for key, lines in sound.faults.items()} == {"data.path": 0, "data.held_out_path": 0}
    for path in (train, held_out):
        with path.open("a") as file:
            file.write('{"id": "torn", "source": "none.png"}\n')
    limit = {"max_faulty_fraction": 0.5}
    both = open_tasks(config(tiny_kontext, train, held_out_path=str(held_out), **limit)).faults
    assert {key: len(lines) for key, lines in both.items()} == {"data.path": 1, "data.held_out_path": 1}
    assert both["data.path"].sentences()[0].startswith(f"{train}, line 5 (torn): ")
    assert both["data.held_out_path"].sentences()[0].startswith(f"{held_out}, line 4 (torn): ")
    assert set(open_tasks(config(tiny_kontext, train, **limit)).faults) == {"data.path"}


def test_what_is_trained_and_measured_on_is_told(tiny_kontext, tmp_path):
    path = write_manifest(tmp_path / "m.jsonl", 4)
    assert open_tasks(config(tiny_kontext, path)).remarks == ()
    again = json.loads(path.read_text().splitlines()[1])
    with path.open("a") as file:
        file.write(json.dumps({**again, "id": "again"}) + "\n")
    found = open_tasks(config(tiny_kontext, path))
    assert found.remarks == (
        "data.path: 5 tasks show 4 images.",
        "data.path: 1 task repeats an earlier one (the same image, mask and instruction), so that it counts more "
        "often; the first is line 6.",
    )
    assert ids(found.held_out) == ["task-3"] and "again" in ids(found.train)
    both = open_tasks(config(tiny_kontext, path, held_out_path=str(path))).remarks
    assert both[-1].startswith("data.held_out_path: every held-out task shows an image that is trained on")
    (tmp_path / "one.jsonl").write_text(
        "\n".join(
            [
                path.read_text().splitlines()[0],
                *(json.dumps({**again, "id": n, "instruction": str(n)}) for n in range(3)),
            ]
        )
    )
    assert [
        sentence.partition(",")[0] for sentence in open_tasks(config(tiny_kontext, tmp_path / "one.jsonl")).remarks
    ] == [
        "data.path: 3 tasks show 1 image.",
        "data.held_out_fraction: every held-out task shows an image that is trained on",
    ]


def test_pixels_that_were_saved_again_are_the_same_image(tiny_kontext, tmp_path, capsys):
    """Another name, compression, or form of the mask; what one pixel tells apart is another image."""
    path = write_manifest(tmp_path / "m.jsonl", 3)
    image, mask = Image.open(tmp_path / "0.png"), np.asarray(Image.open(tmp_path / "mask.png")) > 0
    image.save(tmp_path / "again.png", compress_level=0)
    image.save(tmp_path / "again.webp", lossless=True)
    image.putpixel((5, 5), (1, 2, 3))
    image.save(tmp_path / "other.png")
    assert (tmp_path / "again.png").read_bytes() != (tmp_path / "0.png").read_bytes()
    flat = mask.T.reshape(-1)
    ends = np.flatnonzero(np.diff(flat)) + 1
    rle = {"size": [30, 40], "counts": np.diff([0, *ends, flat.size]).tolist()}
    line = json.loads(path.read_text().splitlines()[1])
    del line["mask"]
    with path.open("a") as file:
        for name in ("again.png", "again.webp", "other.png"):
            file.write(json.dumps({**line, "id": name, "source": name, "mask_rle": rle}) + "\n")
    assert [
        sentence.partition(",")[0].partition("(")[0] for sentence in open_tasks(config(tiny_kontext, path)).remarks
    ] == ["data.path: 6 tasks show 4 images.", "data.path: 2 tasks repeat an earlier one "]
    assert main([str(path)]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", "").split())
    assert "images 4 repeat an earlier task 2" in said
    header, first, *_ = path.read_text().splitlines()
    (tmp_path / "train.jsonl").write_text(f"{header}\n{first}\n")
    (tmp_path / "held.jsonl").write_text(f"{header}\n" + json.dumps({**line, "source": "again.webp", "mask_rle": rle}))
    assert (
        open_tasks(config(tiny_kontext, tmp_path / "train.jsonl", held_out_path=str(tmp_path / "held.jsonl")))
        .remarks[-1]
        .startswith("data.held_out_path: every held-out task shows an image that is trained on")
    )


def test_masks_that_may_lie_in_the_wrong_place_are_told_with_what_to_type(tiny_kontext, tmp_path):
    path = write_manifest(tmp_path / "my m.jsonl", 3)
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.fromarray(np.full((30, 40, 3), 9, np.uint8)).save(tmp_path / "1.png", exif=turned.tobytes())
    (sentence,) = open_tasks(config(tiny_kontext, path)).remarks
    assert sentence.startswith("data.path: 1 line: mask may be drawn on the image as it is stored")
    command = sentence.partition("Look at the masks: python -m editing.validate ")[2]
    assert main([*shlex.split(command)[:-1], str(tmp_path / "sheet.html")]) == 0 and (tmp_path / "sheet.html").is_file()


def test_a_nearly_full_mask_leaves_background_at_the_size_of_training(tiny_kontext, tmp_path):
    path = write_manifest(tmp_path / "m.jsonl", 2)
    mask = np.full((30, 40), 255, np.uint8)
    mask[0, 0] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    path.write_text(path.read_text().replace('"id"', '"mask_polarity": "edit_is_white", "id"'))  # meant to be so large
    tasks = open_tasks(config(tiny_kontext, path, resolution=16))
    assert np.argwhere(~tasks.train[0].edit_mask).tolist() == [[0, 0]]


def test_the_benchmark_trains_on_one_split_and_is_measured_on_another():
    tasks = open_tasks(RunConfig.model_validate({"data": {"type": "shapes", "train_tasks": 3, "held_out_tasks": 2}}))
    assert (ids(tasks.train), ids(tasks.held_out)) == (
        ["shapes-train-0-0", "shapes-train-0-1", "shapes-train-0-2"],
        ["shapes-test-0-0", "shapes-test-0-1"],
    )


def test_settings_can_be_chosen_on_scenes_that_are_neither_trained_on_nor_reported():
    shapes = {"type": "shapes", "train_tasks": 60, "held_out_tasks": 60}
    chosen = open_tasks(RunConfig.model_validate({"data": {**shapes, "held_out_split": "validation"}}))
    reported = open_tasks(RunConfig.model_validate({"data": shapes}))
    assert chosen.train.fingerprint == reported.train.fingerprint
    assert chosen.held_out.fingerprint != reported.held_out.fingerprint
    assert chosen.held_out[0].task_id == "shapes-validation-0-0"

    def layouts(tasks):
        edits = [tasks[index].meta["edit"] for index in range(60)]
        return {(edit.kind, edit.place, edit.after, edit.scene.things) for edit in edits}

    train, validation, test = map(layouts, (chosen.train, chosen.held_out, reported.held_out))
    assert not validation & test and not validation & train and not test & train


def test_masks_that_lose_a_part_at_the_size_of_training_are_told(tiny_kontext, tmp_path):
    path = write_manifest(tmp_path / "m.jsonl", 3)
    thin = np.zeros((300, 400), np.uint8)
    thin[80:200, 100:250] = thin[20, 20:380] = 255
    Image.fromarray(thin).save(tmp_path / "thin.png")
    Image.fromarray(np.full((300, 400, 3), 9, np.uint8)).save(tmp_path / "1.png")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2].replace("mask.png", "thin.png"), *lines[3:]]))
    (sentence,) = open_tasks(config(tiny_kontext, path)).remarks
    assert sentence == (
        "data.path: 1 line: part of the mask is too thin for the size at which the run edits, and is "
        "lost there; the first is line 3. Raise data.resolution, leave token_masks at any, or draw "
        "thicker masks."
    )
    assert open_tasks(config(tiny_kontext, path, resolution=300)).remarks == ()
