"""Photographs as backgrounds: read by the checked decoder, and checked when their folder is opened."""

import numpy as np
import pytest
from PIL import Image

from editing.shapes.dataset import ShapesDataset
from editing.shapes.photos import photo_crop
from editing.task import TaskError


def noise(height=90, width=120, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def test_photo_backgrounds_keep_masks_exact(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    data = ShapesDataset("train", 4, 0, str(tmp_path))
    for i in range(4):
        task = data[i]
        assert (task.source[~task.edit_mask] == task.target[~task.edit_mask]).all()
    assert (data[0].source != ShapesDataset("train", 4, 0)[0].source).any()
    before = data.fingerprint
    assert before == ShapesDataset("train", 4, 0, str(tmp_path)).fingerprint
    Image.fromarray(255 - noise()).save(tmp_path / "a.png")
    assert before != ShapesDataset("train", 4, 0, str(tmp_path)).fingerprint  # other images, other tasks
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (empty, tmp_path / "absent"):
        with pytest.raises(TaskError, match=r"data.photo_folder: expected a folder with PNG"):
            ShapesDataset("train", 1, 0, str(folder))


def truncated(path):
    Image.fromarray(noise()).save(path)
    path.write_bytes(path.read_bytes()[:2000])


FAULTY = {
    "corrupt": (lambda path: path.write_bytes(b"no image"), "must be a PNG, JPEG or WebP file"),
    "truncated": (truncated, "is damaged"),
    "a TIFF by another name": (lambda path: Image.fromarray(noise()).save(path, "TIFF"), "must be a PNG, JPEG or WebP"),
    "too small": (lambda path: Image.fromarray(noise(63, 200)).save(path), "at least 64 × 64 pixels; it has 200 × 63"),
    "too large": (lambda path: Image.new("1", (4001, 4000)).save(path), "at most 16,000,000 pixels"),
    "a folder": (lambda path: path.mkdir(), "must be a file"),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_faulty_image_is_a_sentence_when_the_folder_is_opened(tmp_path, kind):
    make, says = FAULTY[kind]
    Image.fromarray(noise()).save(tmp_path / "good.png")
    make(tmp_path / "faulty.png")
    with pytest.raises(TaskError, match=r"data.photo_folder: 1 of the 2 images in .* cannot be used") as caught:
        ShapesDataset("train", 1, 0, str(tmp_path))
    assert f"{tmp_path / 'faulty.png'}" in str(caught.value) and says in str(caught.value)


def test_a_background_is_as_upright_as_a_viewer_shows_the_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    stored, shown = tmp_path / "stored", tmp_path / "shown"
    for folder in (stored, shown):
        folder.mkdir()
    Image.fromarray(noise(100, 100)).save(stored / "a.png", exif=exif.tobytes())
    Image.fromarray(np.ascontiguousarray(np.rot90(noise(100, 100), -1))).save(shown / "a.png")
    assert np.array_equal(photo_crop(str(stored), 5, 64), photo_crop(str(shown), 5, 64))
