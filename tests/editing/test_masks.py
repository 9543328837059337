import io
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from editing.masks import area_coverage, decode_rle, load_mask_png, pool_mask, to_edit_mask, token_mask
from editing.task import TaskError


def png(array, mode=None):
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    return buffer.getvalue()


def random_mask(seed, height, width, share=0.4):
    return np.random.default_rng(seed).random((height, width)) < share


def brute_coverage(mask, grid):
    """Share of each cell, by summing the overlap rectangle of every pixel with every cell."""
    (height, width), (rows, columns) = mask.shape, grid
    result = np.zeros(grid)
    for i in range(rows):
        for j in range(columns):
            top, bottom = i * height / rows, (i + 1) * height / rows
            left, right = j * width / columns, (j + 1) * width / columns
            for y in range(height):
                for x in range(width):
                    tall = max(0.0, min(bottom, y + 1) - max(top, y))
                    wide = max(0.0, min(right, x + 1) - max(left, x))
                    result[i, j] += mask[y, x] * tall * wide
            result[i, j] /= (bottom - top) * (right - left)
    return result


sizes = st.integers(1, 9)


@given(st.integers(0, 999), sizes, sizes, sizes, sizes)
def test_coverage_is_the_overlap_area_for_any_sizes(seed, height, width, rows, columns):
    mask = random_mask(seed, height, width)
    coverage = area_coverage(mask, (rows, columns))
    assert np.allclose(coverage, brute_coverage(mask, (rows, columns)), atol=1e-12)
    assert np.isclose(coverage.mean(), mask.mean())  # area is neither lost nor made


@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
def test_where_sizes_are_multiples_pooling_is_average_pooling(seed, rows, columns, factor):
    mask = random_mask(seed, rows * factor, columns * factor, 0.5)
    mask[0, 0] = True
    average = torch.nn.functional.avg_pool2d(torch.from_numpy(mask).double()[None], factor)[0].numpy()
    tokens = pool_mask(mask, (rows, columns))
    assert tokens.dtype == torch.float32 and tokens.shape == (rows * columns,)
    wanted = average.reshape(-1) >= 0.5 - 1e-12
    if wanted.any():
        assert np.array_equal(tokens.numpy(), wanted.astype(np.float32))
    else:
        assert tokens.sum() == 1 and average.reshape(-1)[int(tokens.argmax())] == average.max()


def test_tokens_are_row_major():
    mask = np.zeros((4, 6), dtype=bool)
    mask[:2, 4:] = True
    assert pool_mask(mask, (2, 3)).tolist() == [0, 0, 1, 0, 0, 0]


def test_exactly_half_passes_and_the_threshold_moves_it():
    mask = np.zeros((2, 3), dtype=bool)
    mask[:, 0] = True
    mask[0, 1] = True  # the second token of three is half covered
    assert pool_mask(mask, (1, 3)).tolist() == [1, 1, 0]
    assert pool_mask(mask, (1, 3), threshold=0.51).tolist() == [1, 0, 0]
    thirds = np.array([[True, False, False]])
    assert pool_mask(thirds, (1, 1), threshold=1 / 3).tolist() == [1]


def test_a_mask_too_small_for_any_token_keeps_the_most_covered_one():
    mask = np.zeros((32, 32), dtype=bool)
    mask[20, 9] = mask[21, 9] = mask[1, 1] = True
    tokens = pool_mask(mask, (4, 4))
    assert tokens.sum() == 1 and int(tokens.argmax()) == 2 * 4 + 1


def test_a_full_mask_gives_all_tokens():
    assert pool_mask(np.ones((7, 5), dtype=bool), (3, 2)).tolist() == [1] * 6


@pytest.mark.parametrize(
    ("mask", "grid", "threshold", "says"),
    [
        (np.zeros((4, 4), bool), (2, 2), 0.5, "empty"),
        (np.ones((4, 4), np.float32), (2, 2), 0.5, r"got float32 \[4, 4\]"),
        (np.ones((4, 4, 1), bool), (2, 2), 0.5, "expected bool"),
        (np.ones((0, 4), bool), (2, 2), 0.5, "not empty"),
        (np.ones((4, 4), bool), (0, 2), 0.5, "at least one row"),
        (np.ones((4, 4), bool), (2, 2), 0.0, "threshold"),
        (np.ones((4, 4), bool), (2, 2), 1.1, "threshold"),
    ],
)
def test_wrong_masks_and_grids_are_refused(mask, grid, threshold, says):
    with pytest.raises(TaskError, match=says):
        pool_mask(mask, grid, threshold)


def test_polarity_says_which_colour_may_change():
    white = np.array([[True, False]])
    assert to_edit_mask(white, "edit_is_white").tolist() == [[True, False]]
    assert to_edit_mask(white, "edit_is_black").tolist() == [[False, True]]
    with pytest.raises(TaskError, match="polarity: expected one of"):
        to_edit_mask(white, "white")


@given(st.integers(0, 999), st.integers(1, 30), st.integers(1, 30), st.floats(0, 1))
def test_rle_of_every_kind_equals_the_mask_that_pycocotools_encoded(seed, height, width, share):
    mask = random_mask(seed, height, width, share)
    compressed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    flat = mask.reshape(-1, order="F")
    borders = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *borders, flat.size]).tolist()
    for counts in (
        compressed["counts"],
        compressed["counts"].decode(),
        [0, *runs] if flat[0] else runs,
    ):
        decoded = decode_rle({"size": [height, width], "counts": counts}, height, width)
        assert decoded.dtype == np.bool_ and np.array_equal(decoded, mask)


@pytest.mark.parametrize(
    ("rle", "says"),
    [
        ([1, 2], "keys size and counts, got list"),
        ({"size": [4, 6]}, "keys size and counts"),
        ({"size": [4, 6], "counts": [24], "x": 1}, "keys size and counts"),
        ({"size": [4.0, 6], "counts": [24]}, "whole numbers"),
        ({"size": [True, 24], "counts": [24]}, "whole numbers"),
        ({"size": 24, "counts": [24]}, "whole numbers"),
        ({"size": [6, 4], "counts": [24]}, r"that of the image, \[4, 6\], got \[6, 4\]"),
        ({"size": [4, 6], "counts": [23]}, "add up to 4 × 6 = 24; they add up to 23"),
        ({"size": [4, 6], "counts": []}, "add up to 0"),
        ({"size": [4, 6], "counts": [30, -6]}, r"expected values in 0\.\.24 \(4 × 6\), got 30"),
        ({"size": [4, 6], "counts": [20, -2, 6]}, "got -2"),
        ({"size": [4, 6], "counts": [24.0]}, "whole numbers"),
        ({"size": [4, 6], "counts": [True, 23]}, "whole numbers"),
        ({"size": [4, 6], "counts": [10**30]}, "got 1000"),
        ({"size": [4, 6], "counts": None}, "list or text, got NoneType"),
        ({"size": [4, 6], "counts": ""}, "add up to 0"),
        ({"size": [4, 6], "counts": "h"}, "cut off"),
        ({"size": [4, 6], "counts": "é"}, "not a COCO string"),
        ({"size": [4, 6], "counts": "hhhhhhhhhhhh0"}, "not a COCO string"),
        ({"size": [4, 6], "counts": "00000"}, "add up to 0"),
    ],
)
def test_a_wrong_rle_is_refused_in_a_sentence(rle, says):
    with pytest.raises(TaskError, match=says):
        decode_rle(rle, 4, 6)


def test_a_hostile_size_allocates_nothing():
    huge = 10**6
    tracemalloc.start()
    for counts in ([huge * huge], "P" * 40, [huge * huge, 1]):
        with pytest.raises(TaskError):
            decode_rle({"size": [huge, huge], "counts": counts}, 64, 64)
        with pytest.raises(TaskError):
            decode_rle({"size": [64, 64], "counts": counts}, 64, 64)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


WHITE = np.array([[True, False, True], [False, False, True]])


@pytest.mark.parametrize(
    "data",
    [
        png(WHITE),
        png(np.where(WHITE, 255, 0).astype(np.uint8)),
        png(np.where(WHITE, 241, 14).astype(np.uint8)),
        png(np.where(WHITE, 65535, 0).astype(np.uint16)),
        png(np.where(WHITE, 255, 0).astype(np.uint8), "RGB"),
        png(np.where(WHITE, 255, 0).astype(np.uint8), "RGBA"),
        png(np.where(WHITE, 255, 0).astype(np.uint8), "P"),
    ],
)
def test_a_mask_png_of_any_mode_gives_its_white_pixels(data, tmp_path):
    assert np.array_equal(load_mask_png(data), WHITE)
    (tmp_path / "m.png").write_bytes(data)
    assert np.array_equal(load_mask_png(tmp_path / "m.png"), WHITE)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([[0, 17, 255]], np.uint8), "between, for example 17"),
        (np.array([[0, 238, 255]], np.uint8), "between, for example 238"),
        (np.array([[0, 1, 1]], np.uint8), "largest is 1"),
        (np.array([[0, 3, 7]], np.uint8), "largest is 7"),
        (np.array([[[255, 0, 0]]], np.uint8), "colours"),
        (np.array([[[255, 255, 255, 9]]], np.uint8), "transparent"),
    ],
)
def test_a_mask_that_is_not_black_and_white_is_refused(array, says):
    with pytest.raises(TaskError, match=says):
        load_mask_png(png(array))


def test_a_mask_must_be_png():
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "JPEG")
    with pytest.raises(TaskError, match="must be a PNG"):
        load_mask_png(buffer.getvalue())
    with pytest.raises(TaskError, match="damaged"):
        load_mask_png(png(WHITE)[:-25])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 23), st.integers(1, 23), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_token_masks_equal_shares_counted_on_a_common_refinement(height, width, rows, columns, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.15
    mask[seed % height, seed % width] = True
    fine = np.kron(mask, np.ones((rows, columns)))  # every cell is height x width of these subpixels
    share = fine.reshape(rows, height, columns, width).mean(axis=(1, 3)).ravel()
    np.testing.assert_allclose(token_mask(mask, (rows, columns), "soft").numpy(), share, atol=1e-6)
    assert (token_mask(mask, (rows, columns), "any").numpy() == (share > 0)).all()
    assert torch.equal(token_mask(mask, (rows, columns), "half"), pool_mask(mask, (rows, columns)))


def test_a_thin_part_beside_a_large_one_has_a_token_unless_half_is_asked_for():
    mask = np.zeros((64, 64), dtype=bool)
    mask[8:32, 8:32] = True
    mask[40:43, 8:56] = True  # 3 pixels of a row of tokens that are 8 high
    bar = {kind: token_mask(mask, (8, 8), kind).reshape(8, 8)[5] for kind in ("half", "any", "soft")}
    assert bar["half"].sum() == 0 and bar["any"].sum() == 6
    assert bar["soft"].tolist() == [0] + [0.375] * 6 + [0]


def test_empty_masks_and_unknown_kinds_are_refused():
    with pytest.raises(TaskError, match="the mask is empty"):
        token_mask(np.zeros((4, 4), dtype=bool), (2, 2), "any")
    with pytest.raises(ValueError, match="expected a token mask of half, any, soft"):
        token_mask(np.ones((4, 4), dtype=bool), (2, 2), "most")
