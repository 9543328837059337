import io
import os

import numpy as np
import pytest
from PIL import Image

from editing.images import ImageTooLarge, decode_image, image_size, read_file
from editing.task import TaskError


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_rgb_comes_back_as_it_was():
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        assert np.array_equal(decode_image(encoded(Image.fromarray(RGB), kind, **options), "x"), RGB)


def test_gray_palette_and_one_bit_follow_their_colours():
    gray = RGB[..., 0]
    assert np.array_equal(decode_image(encoded(Image.fromarray(gray)), "x"), np.stack([gray] * 3, -1))
    palette = Image.fromarray(RGB).quantize(256)
    assert np.array_equal(decode_image(encoded(palette), "x"), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(gray > 99)
    assert bits.mode == "1"
    assert np.array_equal(decode_image(encoded(bits), "x")[..., 1], np.where(gray > 99, 255, 0))


def test_transparency_is_composited_on_white():
    alpha = np.linspace(0, 255, 54).astype(np.uint8).reshape(6, 9, 1)
    seen = decode_image(encoded(Image.fromarray(np.concatenate([RGB, alpha], -1))), "x")
    share = alpha / 255.0
    assert np.abs(seen - (RGB * share + 255 * (1 - share))).max() <= 1
    assert (seen[alpha[..., 0] == 0] == 255).all()


def test_a_transparent_palette_entry_and_gray_alpha_become_white():
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    seen = decode_image(encoded(palette, transparency=1), "x")
    assert seen.tolist() == [[[10, 20, 30], [255] * 3], [[255] * 3, [10, 20, 30]]]
    gray_alpha = Image.merge("LA", [Image.new("L", (1, 1), 7), Image.new("L", (1, 1), 0)])
    assert decode_image(encoded(gray_alpha), "x").tolist() == [[[255] * 3]]


def test_sixteen_bits_are_scaled_not_cut():
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    seen = decode_image(encoded(Image.fromarray(values)), "x")
    assert seen[0, :, 0].tolist() == [round(int(v) / 257) for v in values[0]] == [0, 0, 1, 1, 128, 255]


def test_cmyk_becomes_rgb():
    seen = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), "x")
    assert seen.shape == (8, 8, 3)
    assert np.abs(seen.astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_gives_the_upright_image(orientation):
    upright = RGB
    stored = {  # how a camera stores the upright image under each orientation, from the EXIF standard
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif.tobytes())
    assert np.array_equal(decode_image(data, "x"), upright)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "must be a PNG, JPEG or WebP"),
        (b"no image", "must be a PNG, JPEG or WebP"),
        (encoded(Image.fromarray(RGB), "GIF"), "must be a PNG, JPEG or WebP"),
        (encoded(Image.fromarray(RGB), "TIFF"), "must be a PNG, JPEG or WebP"),
        (encoded(Image.fromarray(np.tile(RGB, (20, 20, 1))), "JPEG")[:1500], "damaged"),
        (encoded(Image.fromarray(RGB))[:-30], "damaged"),
        (encoded(Image.new("1", (40_000, 30_000))), "at most 16,000,000 pixels"),
        (encoded(Image.new("1", (4_001, 4_000))), "announces 4001 × 4000"),
        (
            encoded(Image.fromarray(RGB), save_all=True, append_images=[Image.fromarray(RGB[::-1])]),
            "animation",
        ),
    ],
)
def test_what_is_no_sound_still_image_is_refused_in_a_sentence(data, says):
    with pytest.raises(TaskError, match=says):
        decode_image(data, "image x")


def test_the_cap_is_inclusive():
    assert decode_image(encoded(Image.fromarray(RGB)), "x", max_pixels=54).shape == (6, 9, 3)
    with pytest.raises(TaskError, match="at most 53 pixels"):
        decode_image(encoded(Image.fromarray(RGB)), "x", max_pixels=53)


def test_the_size_is_told_by_the_header_alone():
    whole = encoded(Image.fromarray(RGB))
    assert image_size(whole, "x") == image_size(whole[:60], "x") == (9, 6)
    with pytest.raises(ImageTooLarge, match="at most 53 pixels; its header announces 9 × 6"):
        image_size(whole, "x", max_pixels=53)
    with pytest.raises(TaskError, match="x must be a PNG, JPEG or WebP file"):
        image_size(b"GIF89a", "x")


def test_a_file_beyond_any_use_is_not_read(tmp_path):
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(8 * 100 + 2**20 + 1)
    with pytest.raises(TaskError, match="has 1,049,377 bytes; at most 1,049,376"):
        read_file(path, max_pixels=100)
    with pytest.raises(TaskError, match="there is none"):
        read_file(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TaskError, match="something else"):
        read_file(tmp_path / "pipe")
