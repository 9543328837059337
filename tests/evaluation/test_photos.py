"""The data set of real photographs."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from configs.load import load_config
from editing.images import decode_image
from editing.manifest import ManifestDataset
from editing.masks import decode_rle
from evaluation import photos
from learner.reporting.gallery import GalleryReport
from learner.reporting.metrics import MetricsLog
from learner.run import run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    pytest.importorskip("skimage")
    return photos.write_photos(tmp_path_factory.mktemp("photos"), long_side=96)


def test_the_manifests_open_without_faults(written):
    for path, expected in zip(written, (photos.TRAIN, photos.HELD_OUT), strict=True):
        dataset = ManifestDataset(path, max_faulty_fraction=0)
        assert [dataset[i].task_id for i in range(len(dataset))] == [photo.task_id for photo in expected]
        assert not dataset.faults


def test_sizes_keep_the_aspect_and_masks_are_small_objects(written):
    for path in written:
        dataset = ManifestDataset(path)
        for task in (dataset[i] for i in range(len(dataset))):
            assert max(task.height, task.width) == 96
            assert 0.005 < task.edit_mask.mean() < 0.2
    # The cat's image is 451 x 300.
    cat = ManifestDataset(written[0])[0]
    assert (cat.height, cat.width) == (64, 96)


def test_the_cat_s_mask_lies_on_its_green_eyes(written):
    cat = ManifestDataset(written[0])[0]
    inside, outside = (cat.source[region].mean(axis=0) for region in (cat.edit_mask, ~cat.edit_mask))
    assert inside[1] - inside[2] > outside[1] - outside[2]  # eyes: less blue than fur
    left, right = cat.edit_mask[:, :48], cat.edit_mask[:, 48:]
    assert left.any() and right.any()


def test_training_and_held_out_share_no_image():
    assert not {photo.file for photo in photos.TRAIN} & {photo.file for photo in photos.HELD_OUT}


def test_one_mask_is_a_run_length_text(written):
    lines = [json.loads(line) for line in written[0].read_text().splitlines()[1:]]
    assert [("mask_rle" in line) for line in lines].count(True) == 1


def test_the_overview_shows_all_images(written):
    sheet = decode_image((written[0].parent / "overview.png").read_bytes(), "overview")
    assert sheet.shape == (2 * 104, 4 * 104, 3)


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_run_lengths_are_read_back(mask):
    assert (decode_rle(photos.encode_rle(mask), *mask.shape) == mask).all()


def test_painted_shapes_are_where_they_are_said_to_be():
    mask = photos.paint_mask(
        [photos.Ellipse(0.25, 0.5, 0.1, 0.2), photos.Polygon(((0.6, 0.1), (0.9, 0.1), (0.9, 0.3), (0.6, 0.3)))],
        (100, 200),
    )
    assert mask[50, 50] and mask[50, 69] and not mask[50, 73] and mask[69, 50] and not mask[73, 50]
    assert mask[20, 150] and not mask[35, 150] and not mask[20, 115]


@pytest.mark.slow
def test_photographs_train_without_ground_truth_and_have_their_gallery(tmp_path):
    pytest.importorskip("skimage")
    train, held_out = photos.write_photos(tmp_path / "set", long_side=128)
    config = load_config(
        [
            "--config",
            "my_images",
            "--folder",
            str(tmp_path),
            "--name",
            "photos",
            "--cluster.mode",
            "inline",
            "--data.path",
            str(train),
            "--data.held_out_path",
            str(held_out),
            "--data.resolution",
            "128",
            "--rewards.weights",
            "{background_psnr: 1.0, acd: 1.0}",
            "--algorithm.preservation.velocity_weight",
            "1",
            "--sampler.group_size",
            "3",
            "--sampler.steps",
            "2",
            "--algorithm.trained_steps",
            "[0, 1]",
            "--sampler.evaluation_steps",
            "2",
            "--learner.steps",
            "1",
            "--learner.groups_per_step",
            "1",
            "--algorithm.anchors",
            "1",
            "--report.gallery_groups",
            "1",
        ]
    )
    assert config.editor.path == "shapes"
    metrics = MetricsLog()
    summary = run(config, observers=[GalleryReport(), metrics])
    assert summary["held_out_tasks"] == len(photos.HELD_OUT) and "edit_psnr" not in summary["final"]["mean"]
    assert {"background_psnr", "background_ssim"} <= set(summary["final"]["mean"])
    lines = [json.loads(line) for line in (tmp_path / "photos" / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["base", "step", "final"]
    assert {"reward/background_psnr", "reward/acd"} <= set(lines[1])
    page = (tmp_path / "photos" / "gallery" / "index.html").read_text(encoding="utf-8")
    shown = [photo.instruction for photo in photos.TRAIN if photo.instruction in page]
    assert len(shown) == 1 and all(photo.instruction in page for photo in photos.HELD_OUT)
    assert page.count('alt="attention, trained"') == len(photos.HELD_OUT)
    assert 'alt="target"' not in page


def test_a_missing_library_is_a_sentence_with_a_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(photos.importlib.util, "find_spec", lambda name: None)
    assert photos.main([str(tmp_path)]) == 1
    assert "pip install scikit-image" in capsys.readouterr().err


def test_a_missing_image_is_a_sentence(tmp_path):
    with pytest.raises(photos.PhotosError, match=r"chelsea\.png"):
        photos.write_photos(tmp_path / "set", bundled=tmp_path)


def test_too_small_images_are_refused(tmp_path):
    with pytest.raises(photos.PhotosError, match="at least 64"):
        photos.write_photos(tmp_path, long_side=32)
