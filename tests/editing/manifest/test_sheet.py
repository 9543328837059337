import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from editing.manifest import ManifestDataset
from editing.manifest.sheet import chosen, overlay, write_sheet
from editing.task import EditTask
from editing.validate import main
from tests.editing.manifest.test_notes import LINES, folder, manifest

__all__ = ["folder"]


def test_every_mask_is_drawn_on_its_image(folder, tmp_path, capsys):
    line = {**LINES["plain"][0], "id": "<b>cat", "instruction": "make the 猫 <i>red"}
    path = manifest(folder, line, LINES["turned square"][0])
    assert main([str(path), "--sheet", str(tmp_path / "sheet.html")]) == 0
    assert "shows 2 of 2 masks" in capsys.readouterr().out
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;cat" in page and "猫 &lt;i&gt;red" in page and "<i>" not in page and "http" not in page
    assert page.count("<b>mask may be drawn on the image as it is stored") == 1
    images = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
        for data in re.findall('base64,([^"]+)', page)
    ]
    assert len(images) == 2
    for image in images:
        red = (image[..., 0] > 150) & (image[..., 1:].max(axis=-1) < 90)
        assert 100 < red.sum() < 0.1 * red.size


def test_what_may_change_keeps_its_colours_and_the_rest_is_faded():
    source = np.zeros((240, 240, 3), np.uint8)
    source[..., 1] = 200
    edit_mask = np.zeros((240, 240), bool)
    edit_mask[60:180, 60:180] = True
    drawn = np.asarray(overlay(EditTask("a", source, edit_mask, "x")))
    assert drawn[120, 120].tolist() == [0, 200, 0] and drawn[60, 100].tolist() == [220, 0, 30]
    assert np.ptp(drawn[10, 10]) == 0


def test_suspicious_tasks_are_shown_first_and_the_rest_is_spread(folder):
    suspicious, plain = LINES["turned square"][0], LINES["plain"][0]
    items = ManifestDataset(manifest(folder, *[plain] * 30, *[suspicious] * 10, *[plain] * 30)).items
    assert chosen(items, 6) == [30, 33, 36, 0, 20, 50]
    assert sorted(chosen(items, 200)) == list(range(70))


def test_a_sheet_that_cannot_be_written_is_a_sentence(folder, tmp_path, capsys):
    place = tmp_path / "no such folder" / "sheet.html"
    assert main([str(manifest(folder, LINES["plain"][0])), "--sheet", str(place)]) == 1
    assert f"--sheet: {place} cannot be written (No such file or directory)" in capsys.readouterr().out


@pytest.mark.parametrize("size", [(4000, 40), (1, 2), (64, 2048)])
def test_extreme_shapes_are_drawn(size):
    edit_mask = np.zeros(size, bool)
    edit_mask[0, 0] = True
    assert overlay(EditTask("a", np.zeros((*size, 3), np.uint8), edit_mask, "x")).size[0] >= 1


def test_an_image_that_is_gone_is_a_sentence_on_the_sheet(folder, tmp_path):
    dataset = ManifestDataset(manifest(folder, LINES["plain"][0]))
    (folder / "wide.png").unlink()
    assert write_sheet(dataset, tmp_path / "sheet.html") == 1
    assert "must be a file; there is none" in (tmp_path / "sheet.html").read_text(encoding="utf-8")
