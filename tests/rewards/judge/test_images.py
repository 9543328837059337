import hashlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from editing.images import decode_image
from rewards.judge.images import encode_png, fingerprint


def random_image(height, width, seed=0, flat=False):
    if flat:
        return np.full((height, width, 3), seed % 256, dtype=np.uint8)
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 999), st.booleans())
def test_a_png_holds_exactly_the_pixels(height, width, seed, flat):
    image = random_image(height, width, seed, flat)
    data = encode_png(image)
    with Image.open(io.BytesIO(data)) as read:
        assert (read.format, read.mode, read.size) == ("PNG", "RGB", (width, height))
        assert np.array_equal(np.asarray(read), image)
    assert np.array_equal(decode_image(data, "image"), image)
    assert encode_png(image.copy()) == data


@pytest.mark.parametrize("cut", [np.s_[::2, ::-1], np.s_[1:-3, 5:], np.s_[:, :, ::-1]])
def test_views_and_read_only_arrays_are_encoded_as_they_look(cut):
    image = random_image(17, 23)[cut]
    image.setflags(write=False)
    assert np.array_equal(decode_image(encode_png(image), "image"), image)
    assert fingerprint(image) == fingerprint(image.copy())


def test_smooth_images_are_compressed():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    assert len(encode_png(ramp)) < ramp.size / 20
    assert len(encode_png(random_image(64, 64))) < 64 * 64 * 3 * 1.05 + 200


def test_a_fingerprint_tells_pixels_and_shapes_apart():
    image = random_image(6, 4)
    changed = image.copy()
    changed[5, 3, 2] ^= 1
    different = {fingerprint(one) for one in (image, changed, image.reshape(4, 6, 3), image.reshape(2, 12, 3))}
    assert len(different) == 4
    assert fingerprint(image) == hashlib.sha256(b"6 4 " + image.tobytes()).hexdigest()


@pytest.mark.parametrize(
    "image",
    [
        random_image(4, 4).astype(float),
        random_image(4, 4)[..., 0],
        random_image(4, 4)[..., :2],
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(image):
    for function in (encode_png, fingerprint):
        with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\]; got "):
            function(image)
