"""Embedded colour profiles, against what a colour management system shows."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from editing.images import decode, decode_image
from editing.task import TaskError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = {b"rXYZ": (0.51512, 0.24120, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189), b"bXYZ": (0.15710, 0.06657, 0.78407)}
COLOURS = np.array([[[200, 60, 40], [60, 180, 70], [255, 255, 255], [0, 0, 0], [90, 90, 90]]], np.uint8)


def display_p3():
    """sRGB's profile with the primaries of Display P3, and still called sRGB."""
    profile = bytearray(SRGB)
    (count,) = struct.unpack(">I", profile[128:132])
    for entry in range(count):
        tag, offset, _ = struct.unpack(">4sII", profile[132 + 12 * entry : 144 + 12 * entry])
        for place, value in enumerate(P3.get(tag, ())):
            profile[offset + 8 + 4 * place : offset + 12 + 4 * place] = struct.pack(">i", round(value * 65536))
    return bytes(profile)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_wide_gamut_is_converted_as_a_viewer_does():
    found = decode(encoded(Image.fromarray(COLOURS), icc_profile=display_p3()), "x")
    assert found.profile is not None
    red, green, white, black, gray = found.image[0].astype(int)
    # The same light in sRGB: more red and green than the file's numbers say.
    assert np.abs(red - (217, 42, 23)).max() <= 2 and np.abs(green - (0, 183, 49)).max() <= 2
    assert np.abs(white - 255).max() <= 1 and black.max() <= 1 and np.ptp(gray) <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_every_format_carries_its_profile(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = Image.new("RGB", (16, 16), (200, 60, 40))
    assert decode(encoded(plain, kind, icc_profile=display_p3(), **options), "x").image[0, 0, 0] >= 210


def test_srgb_is_left_alone_bit_for_bit():
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    found = decode(encoded(Image.fromarray(noise), icc_profile=SRGB), "x")
    assert np.array_equal(found.image, noise) and found.profile is None


def test_transparent_images_are_converted_before_they_are_put_on_white():
    alpha = np.full((1, 5, 1), 255, np.uint8)
    alpha[0, 0] = 0
    data = encoded(Image.fromarray(np.concatenate([COLOURS, alpha], -1)), icc_profile=display_p3())
    opaque = decode_image(encoded(Image.fromarray(COLOURS), icc_profile=display_p3()), "x")
    assert decode_image(data, "x")[0, 0].tolist() == [255] * 3
    assert np.array_equal(decode_image(data, "x")[0, 1:], opaque[0, 1:])


def test_a_gray_image_with_a_profile_for_rgb_is_read():
    gray = Image.new("L", (4, 4), 100)
    assert decode_image(encoded(gray, icc_profile=SRGB), "x").tolist() == np.full((4, 4, 3), 100).tolist()


@pytest.mark.parametrize(
    ("mode", "profile", "says"),
    [
        ("RGB", b"junk" * 40, "colour profile that can be read, or none"),
        ("RGB", display_p3()[:200], "colour profile that can be read, or none"),
        ("CMYK", SRGB, "fits its mode CMYK; it has one for RGB"),
    ],
)
def test_a_profile_that_cannot_be_used_is_a_sentence(mode, profile, says):
    data = encoded(Image.new(mode, (8, 8)), "JPEG", icc_profile=profile)
    with pytest.raises(TaskError, match=f"x must have a colour profile .*{says}|{says}"):
        decode(data, "x")
