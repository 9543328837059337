"""What could be read in another way than the owner meant: turned images, and run lengths along the rows."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from editing.manifest import ManifestDataset
from editing.manifest.notes import Note
from editing.masks import decode_rle, looks_row_major
from editing.validate import main
from tests.editing.test_colour import display_p3


def runs(flat):
    """Run lengths of a flat mask, zeros first."""
    cuts = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int), [2]])))
    return np.diff(np.concatenate([[0], cuts])).tolist()


def mask(height, width, box):
    found = np.zeros((height, width), bool)
    top, left, bottom, right = box
    found[top:bottom, left:right] = True
    return found


@pytest.fixture
def folder(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, (height, width) in {"wide": (60, 80), "square": (60, 60)}.items():
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
        image.save(tmp_path / f"{name}.png")
        image.save(tmp_path / f"{name}_turned.png", exif=exif.tobytes())
        image.save(tmp_path / f"{name}_p3.png", icc_profile=display_p3())
        Image.fromarray(mask(height, width, (10, 5, 30, 50))).save(tmp_path / f"{name}_mask.png")
    Image.fromarray(mask(80, 60, (10, 5, 30, 50))).save(tmp_path / "tall_mask.png")
    return tmp_path


def manifest(folder, *lines):
    path = folder / "manifest.jsonl"
    rows = [{"locus_manifest": 1, "mask_polarity": "edit_is_white"}, *({"instruction": "x", **line} for line in lines)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


WIDE, SQUARE = mask(60, 80, (10, 20, 30, 60)), mask(60, 60, (10, 30, 20, 55))
LINES = {
    "plain": ({"source": "wide.png", "mask": "wide_mask.png"}, ()),
    "turned": ({"source": "wide_turned.png", "mask": "tall_mask.png"}, (Note.TURNED,)),
    "turned square": ({"source": "square_turned.png", "mask": "square_mask.png"}, (Note.TURNED, Note.TURNED_MASK)),
    "profile": ({"source": "wide_p3.png", "mask": "wide_mask.png"}, (Note.CONVERTED,)),
    "columns": ({"source": "wide.png", "mask_rle": {"size": [60, 80], "counts": runs(WIDE.T.ravel())}}, ()),
    "rows": ({"source": "wide.png", "mask_rle": {"size": [60, 80], "counts": runs(WIDE.ravel())}}, (Note.ROW_MAJOR,)),
    "square": (
        {"source": "square.png", "mask_rle": {"size": [60, 60], "counts": runs(SQUARE.ravel())}},
        (Note.SQUARE_RLE,),
    ),
}


@pytest.mark.parametrize("kind", LINES)
def test_how_a_line_was_read_is_noted(folder, kind):
    line, notes = LINES[kind]
    assert ManifestDataset(manifest(folder, line)).items[0].notes == notes


def test_the_command_counts_what_could_be_read_in_another_way(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = str(manifest(folder, *(line for line, _ in LINES.values())))
    assert main([path]) == 0
    said = capsys.readouterr().out
    for note, count in ((Note.TURNED, 2), (Note.TURNED_MASK, 1), (Note.CONVERTED, 1), (Note.ROW_MAJOR, 1)):
        (row,) = (line for line in said.splitlines() if note in line)
        assert f"│ {count} " in row
    assert f"type python -m editing.validate {path} --sheet sheet.html" in said
    assert main([str(manifest(folder, LINES["plain"][0]))]) == 0
    assert "sheet.html" not in capsys.readouterr().out


def test_a_mask_of_the_stored_size_says_how_it_was_drawn(folder):
    dataset = ManifestDataset(
        manifest(folder, LINES["plain"][0], {"source": "wide_turned.png", "mask": "wide_mask.png"}),
        max_faulty_fraction=0.5,
    )
    assert "that of the image as stored, before EXIF orientation 6 is applied" in dataset.faults[0].reason


@settings(max_examples=200, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.data())
def test_masks_whose_runs_go_down_the_columns_are_never_suspected(height, width, data):
    shape = np.zeros((height, width), bool)
    for _ in range(data.draw(st.integers(1, 4))):
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        shape[top : top + data.draw(st.integers(1, height)), left : left + data.draw(st.integers(1, width))] = True
    read = decode_rle({"size": [height, width], "counts": runs(shape.T.ravel())}, height, width)
    assert np.array_equal(read, shape) and not looks_row_major(read)


def test_a_disk_read_along_the_wrong_direction_is_suspected_at_every_size():
    for height, width in ((40, 60), (60, 40), (480, 640), (64, 512)):
        rows, columns = np.ogrid[:height, :width]
        disk = (rows - height / 2) ** 2 + (columns - width / 3) ** 2 < (min(height, width) / 4) ** 2
        read = decode_rle({"size": [height, width], "counts": runs(disk.ravel())}, height, width)
        assert looks_row_major(read) and not looks_row_major(disk), (height, width)
