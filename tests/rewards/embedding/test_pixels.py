"""Crops, squares, the models' input and the patches' share of background."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from rewards.embedding.folder import Preprocessing
from rewards.embedding.pixels import LEAST, Box, background_shares, crop_box, model_input, patch_grid, squared

RULES = Preprocessing((0.48, 0.46, 0.41), (0.27, 0.26, 0.28), 1 / 255, 3)


def mask(height: int, width: int, box: Box) -> np.ndarray:
    found = np.zeros((height, width), dtype=bool)
    found[box.top : box.bottom, box.left : box.right] = True
    return found


@given(st.data())
def test_no_editable_pixel_is_cut_off_and_the_box_lies_inside(data):
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    edit = np.zeros((height, width), dtype=bool)
    for _ in range(data.draw(st.integers(1, 3))):
        edit[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = True
    box = crop_box(edit)
    assert 0 <= box.top < box.bottom <= height and 0 <= box.left < box.right <= width
    assert mask(height, width, box)[edit].all()
    rows, columns = box.bottom - box.top, box.right - box.left
    assert min(rows, columns) >= min(height, width, LEAST * min(height, width))
    # A square, or as much of one as there is.
    assert rows == columns or rows == height < columns or columns == width < rows


@pytest.mark.parametrize(
    ("size", "edit", "expected"),
    [
        ((100, 100), Box(50, 50, 51, 51), Box(38, 38, 63, 63)),  # tiny: a quarter of the side around it
        ((100, 100), Box(0, 0, 1, 1), Box(0, 0, 25, 25)),  # in a corner: moved inside
        ((100, 100), Box(0, 0, 100, 100), Box(0, 0, 100, 100)),  # full
        ((100, 300), Box(40, 100, 60, 200), Box(0, 85, 100, 215)),  # wide: all the height there is
        ((100, 100), Box(40, 40, 60, 60), Box(37, 37, 63, 63)),  # 15 % of 20 pixels on every side
    ],
)
def test_boxes(size, edit, expected):
    assert crop_box(mask(*size, edit)) == expected


def test_what_is_no_square_is_padded_with_the_mean_and_not_squeezed():
    image = np.full((1, 4, 10, 3), 200, np.uint8)
    square = squared(image, RULES)
    assert square.shape == (1, 10, 10, 3)
    assert (square[:, 3:7] == 200).all()
    padding = model_input(square, 10, 10, RULES)[0, :, [0, 1, 2, 7, 8, 9]]
    assert padding.abs().max() < 0.01  # which the model sees as nothing


@pytest.mark.parametrize(
    ("processor", "size"),
    [(CLIPImageProcessorPil, {"shortest_edge": 32}), (SiglipImageProcessorPil, {"height": 32, "width": 32})],
)
@pytest.mark.parametrize("side", [20, 32, 75])
def test_the_input_is_that_of_the_models_own_processors(processor, size, side):
    images = np.random.default_rng(side).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    settings = processor(
        size=size,
        crop_size={"height": 32, "width": 32},
        image_mean=RULES.mean,
        image_std=RULES.std,
        resample=RULES.resample,
    )
    expected = np.stack(settings(list(images), return_tensors="np")["pixel_values"])
    np.testing.assert_allclose(model_input(images, 32, 32, RULES).numpy(), expected, atol=1e-5)


def test_patches_have_the_images_proportions():
    assert patch_grid(64, 64, 14, 224) == (16, 16)
    assert patch_grid(512, 1024, 14, 224) == (11, 23)
    assert patch_grid(1, 5000, 14, 224)[0] == 1


def test_the_share_of_background_of_every_patch():
    edit = mask(10, 10, Box(0, 0, 5, 5))
    assert background_shares(edit, 2, 2).tolist() == [[0.0, 1.0], [1.0, 1.0]]
    assert background_shares(edit, 1, 1) == pytest.approx(0.75)
    # Patches that cut through pixels: the share is exact, and their mean is that of the mask.
    assert background_shares(edit, 3, 4).mean() == pytest.approx(0.75)
    assert background_shares(edit, 20, 20)[:10, :10].max() == 0.0
