"""Tests of rewards.service.decode: hostile files end in a refusal, and nothing large is decoded on the way."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from configs.rewards import ServiceConfig
from editing import images
from rewards.service.body import parse
from rewards.service.decode import decode, unpack
from rewards.service.refusal import Refusal
from tests.rewards.service.hostile import jpeg_of_many_scans, png_by_header
from tests.rewards.service.running import MASK, SOURCE, encoded, small_request

LIMITS = ServiceConfig()


def whole(**changes):
    """Request to task and candidates, or the refusal."""
    try:
        return decode(unpack(parse(json.dumps(small_request(**changes)).encode()), LIMITS), "request 1")
    except Refusal as refusal:
        return refusal


def test_images_mask_and_words_arrive_as_they_were():
    task, edited = whole(caption="dark")
    assert np.array_equal(task.source, SOURCE) and np.array_equal(task.edit_mask, MASK)
    assert np.array_equal(edited, np.stack([SOURCE, np.zeros_like(SOURCE)]))
    assert (task.task_id, task.instruction, task.caption, task.target) == ("request 1", "make it black", "dark", None)


def test_a_turned_image_is_compared_as_it_is_seen():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    stored = encoded(np.ascontiguousarray(np.rot90(SOURCE)), exif=exif.tobytes())
    _, edited = whole(edited=[stored])
    assert np.array_equal(edited[0], SOURCE)
    sideways = encoded(SOURCE, exif=exif.tobytes())
    assert "edited[0] must have the size of the source, [6, 9]; got [9, 6]" in whole(edited=[sideways]).sentence


@pytest.mark.parametrize("side", [9_110, 12_125, 16_200])  # 83, 147 and 262 megapixels: silence, a warning, an error
def test_bombs_are_refused_by_their_header(side, monkeypatch, recwarn):
    bomb = base64.b64encode(png_by_header(side, side)).decode()
    monkeypatch.setattr(images, "open_image", lambda *_: pytest.fail("it was decoded"))
    for changes in (
        {"source": bomb},
        {"edited": [bomb]},
        {"target": bomb},
        {"mask": {"png": bomb, "polarity": "edit_is_white"}},
    ):
        refusal = whole(**changes)
        assert refusal.status == 413 and "must have at most 16,000,000 pixels" in refusal.sentence


def test_a_jpeg_of_very_many_scans_is_refused_unread():
    data, scans = jpeg_of_many_scans(64, 64)
    assert scans > 1000 and Image.open(io.BytesIO(data)).size == (64, 64)
    refusal = whole(source=base64.b64encode(data).decode())
    assert refusal.status == 413 and f"a JPEG of {scans:,} scans; at most 100" in refusal.sentence
    progressive = encoded(SOURCE, "JPEG", progressive=True)
    assert not isinstance(whole(edited=[progressive]), Refusal)


@settings(max_examples=300)
@given(kind=st.sampled_from(["PNG", "JPEG", "WEBP"]), data=st.data())
def test_damaged_files_are_refusals_or_images(kind, data):
    file = bytearray(base64.b64decode(encoded(SOURCE, kind)))
    for _ in range(data.draw(st.integers(0, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    file = bytes(file[: data.draw(st.integers(1, len(file)))])
    text = base64.b64encode(file).decode()
    for changes in ({"source": text}, {"edited": [text]}, {"mask": {"png": text, "polarity": "edit_is_black"}}):
        got = whole(**changes)
        if isinstance(got, Refusal):
            assert got.status in (413, 422) and got.sentence.endswith((".", ".)")) and len(got.sentence) <= 300
        else:
            assert got[1].shape[1:] == got[0].source.shape
