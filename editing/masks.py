"""Masks: from files and run lengths to pixels, and from pixels to latent tokens.

Polarity is always explicit. A mask file says which pixels are white; only together with a stated
`MaskPolarity` does it become an edit mask (True = editable).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from editing.images import MAX_PIXELS, eight_bit_gray, open_image, read_file
from editing.task import PixelMask, TaskError

MaskPolarity = Literal["edit_is_white", "edit_is_black"]
"""Which colour of a mask file (or which value of an RLE, where white is 1) marks what may change."""
POLARITIES: tuple[str, ...] = get_args(MaskPolarity)

BINARY_TOLERANCE = 16
"""A mask value counts as black up to this and as white from 255 minus this."""


STRIP = 256
"""Rows of a mask that are converted to float64 at a time."""


def to_edit_mask(white: PixelMask, polarity: MaskPolarity) -> PixelMask:
    """bool [H, W], True = editable, of a mask's white pixels under the stated polarity."""
    if polarity not in POLARITIES:
        raise TaskError(f"mask polarity: expected one of {', '.join(POLARITIES)}, got {polarity!r}.")
    return white if polarity == "edit_is_white" else ~white


def area_coverage(mask: PixelMask, grid: tuple[int, int]) -> NDArray[np.float64]:
    """float64 [h, w] in [0, 1]: the exact share of each grid cell's area that the mask covers.

    A cell (i, j) spans rows [i·H/h, (i+1)·H/h) and columns [j·W/w, (j+1)·W/w); pixels that straddle a
    border count with the share that lies inside, so no size needs to be a multiple of the grid.
    Example: a mask row [1, 0, 0] on two cells (1.5 pixels each) gives [2/3, 0].
    """
    if mask.ndim != 2 or mask.dtype != np.bool_ or 0 in mask.shape:
        raise TaskError(f"mask: expected bool [H, W], not empty, got {mask.dtype} {list(mask.shape)}.")
    if min(grid) < 1:
        raise TaskError(f"grid: expected at least one row and one column, got {grid}.")
    rows, columns = grid
    # In strips, since a photograph's mask takes 100 MB as float64.
    strips = (mask[start : start + STRIP].astype(np.float64) for start in range(0, mask.shape[0], STRIP))
    return _pool_axis(np.concatenate([_pool_axis(strip, 1, columns) for strip in strips]), 0, rows)


def _pool_axis(values: NDArray[np.float64], axis: int, cells: int) -> NDArray[np.float64]:
    # The running sum is piecewise linear between pixel borders: its value at each cell border is exact.
    size = values.shape[axis]
    sums = np.cumsum(np.moveaxis(values, axis, 0), axis=0)
    sums = np.concatenate([np.zeros_like(sums[:1]), sums])
    whole, rest = np.divmod(np.arange(cells + 1) * size, cells)
    part = (rest / cells)[:, None]
    at_border = sums[whole] * (1 - part) + sums[np.minimum(whole + 1, size)] * part
    return np.moveaxis(np.diff(at_border, axis=0) * (cells / size), 0, axis)


def threshold_coverage(coverage: NDArray[np.float64], threshold: float = 0.5) -> PixelMask:
    """bool, the shape of `coverage`: cells covered to at least `threshold`, but always at least one.

    If no cell reaches it, the one of largest coverage is taken (the first in row-major order among equals).

    Raises:
        TaskError: a threshold outside (0, 1], or nothing covered at all.
    """
    if not 0 < threshold <= 1:
        raise TaskError(f"threshold: expected a value in (0, 1], got {threshold}.")
    if coverage.max() <= 0:
        raise TaskError("the mask is empty: at least one pixel must be editable (True).")
    chosen = coverage >= threshold - 1e-9  # a share that is exactly the threshold passes in spite of rounding
    if not chosen.any():
        chosen.flat[int(coverage.argmax())] = True
    return chosen


def loses_a_part(coverage: NDArray[np.float64], chosen: PixelMask) -> bool:
    """Whether a connected part of the cells that a mask touches has no chosen cell, as thin parts may.

    Cells that share a side are connected; parts of a mask closer together than a cell are one.
    Example: coverage [[1, 0, 0.2]] and the cells of one half and more lose the second part.
    """
    touched = coverage > 1e-9
    reached, more = chosen & touched, touched
    while not np.array_equal(reached, more):
        more = reached
        for axis in (0, 1):
            reached = _along(_along(reached, touched, axis), touched, axis, backwards=True)
    return bool((touched & ~reached).any())


def _along(reached: PixelMask, touched: PixelMask, axis: int, backwards: bool = False) -> PixelMask:
    """All touched cells reachable from a reached one through touched cells, in one direction of an axis."""
    if backwards:
        return np.flip(_along(np.flip(reached, axis), np.flip(touched, axis), axis), axis)
    shape = (-1, 1) if axis == 0 else (1, -1)
    place = np.arange(reached.shape[axis]).reshape(shape)
    last_reached = np.maximum.accumulate(np.where(reached, place, -1), axis=axis)
    last_gap = np.maximum.accumulate(np.where(touched, -1, place), axis=axis)
    return reached | (touched & (last_reached > last_gap))


def pool_mask(edit_mask: PixelMask, grid: tuple[int, int], threshold: float = 0.5) -> torch.Tensor:
    """float32 [h·w] of 0 and 1, row-major: the latent tokens that may change; at least one is 1.

    Area pooling to the token grid, then a threshold (method 1.6, adopted).

    Args:
        edit_mask: bool [H, W], True = editable.
        grid: rows and columns of latent tokens.
        threshold: share of a token's area that must be editable, in (0, 1].

    Raises:
        TaskError: an empty mask, a wrong shape or dtype, a threshold outside its range.
    """
    chosen = threshold_coverage(area_coverage(edit_mask, grid), threshold)
    return torch.from_numpy(chosen.reshape(-1).astype(np.float32))


TokenMask = Literal["half", "any", "soft"]
"""Which tokens count as editable: at least half covered, touched at all, or each in proportion to its coverage."""


def token_mask(edit_mask: PixelMask, grid: tuple[int, int], kind: TokenMask) -> torch.Tensor:
    """float32 [h·w] in [0, 1], row-major: how far each latent token may change, at least one above 0.

        half    1 where at least half of the token's area is editable, see `pool_mask`: thin parts may vanish
        any     1 where any of it is: every part of the mask has a token
        soft    the editable share of the token's area

    A mask row [1, 0, 0, 0, 0, 0] on two tokens (three pixels each) gives half [1, 0] (no token passes, so the one
    of largest coverage does), any [1, 0], soft [1/3, 0].

    Args:
        edit_mask: bool [H, W], True = editable.
        grid: rows and columns of latent tokens.
        kind: see above.

    Raises:
        TaskError: an empty mask, a wrong shape or dtype.
        ValueError: an unknown kind.
    """
    if kind == "half":
        return pool_mask(edit_mask, grid)
    if kind not in get_args(TokenMask):
        raise ValueError(f"expected a token mask of {', '.join(get_args(TokenMask))}, got {kind!r}.")
    coverage = area_coverage(edit_mask, grid).clip(0, 1)
    coverage[coverage < 1e-9] = 0  # rounding of shares that add up to nothing
    if not coverage.any():
        raise TaskError("the mask is empty: at least one pixel must be editable (True).")
    share = coverage if kind == "soft" else coverage > 0
    return torch.from_numpy(share.reshape(-1).astype(np.float32))


def load_mask_png(source: Path | bytes, max_pixels: int = MAX_PIXELS) -> PixelMask:
    """bool [H, W], True = white, of a black-and-white PNG (any mode whose colours are gray).

    Every value must be near black or near white: a soft or antialiased mask is rejected, because its
    threshold is the owner's decision. Apply the polarity with `to_edit_mask`.

    Args:
        source: the file, or its bytes.
        max_pixels: cap on height × width, compared with the header before decoding.

    Raises:
        TaskError: not a PNG, damaged, too large, coloured, transparent, or not black and white.
    """
    name = f"mask {source}" if isinstance(source, Path) else "the mask"
    data = read_file(source, max_pixels) if isinstance(source, Path) else source
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise TaskError(f"{name} must be a PNG file; its content is not. (JPEG blurs the edges of a mask.)")
    image = open_image(data, name, max_pixels)
    gray = eight_bit_gray(image)
    if gray is None:
        rgba = np.asarray(image.convert("RGBA"))
        if (rgba[..., 3] != 255).any():
            raise TaskError(f"{name} must not be transparent; save it in black and white without alpha.")
        if (rgba[..., :1] != rgba[..., 1:3]).any():
            raise TaskError(f"{name} must be black and white; it has colours.")
        gray = rgba[..., 0]
    if 0 < gray.max() <= BINARY_TOLERANCE:
        # 0 and 1, or class labels: unscaled, everything would count as black.
        raise TaskError(f"{name} must have the values 0 and 255; its largest is {gray.max()}. Scale white to 255.")
    between = (gray > BINARY_TOLERANCE) & (gray < 255 - BINARY_TOLERANCE)
    if between.any():
        raise TaskError(
            f"{name} must be black and white (values within {BINARY_TOLERANCE} of 0 or 255); "
            f"{between.mean():.1%} of its pixels lie between, for example {int(gray[between][0])}. "
            "Threshold it first."
        )
    return gray >= 128


def decode_rle(rle: Mapping[str, Any], height: int, width: int) -> PixelMask:
    """bool [height, width], True = 1, of a COCO run-length mask, compressed or not.

    `rle` is {"size": [height, width], "counts": text or list}; runs go down the columns and start with
    zeros. Size and run lengths are checked before the mask is allocated.

    Raises:
        TaskError: wrong keys or types, a size other than height × width, runs that do not fill it.
    """
    if not isinstance(rle, Mapping) or set(rle) != {"size", "counts"}:
        got = sorted(map(str, rle)) if isinstance(rle, Mapping) else type(rle).__name__
        raise TaskError(f"RLE: expected the keys size and counts, got {got}.")
    size, counts = rle["size"], rle["counts"]
    if not isinstance(size, list | tuple) or [type(n) for n in size] != [int, int]:
        raise TaskError(f"the RLE's size: expected [height, width] in whole numbers, got {size!r:.60}.")
    if tuple(size) != (height, width):
        raise TaskError(f"the RLE's size: expected that of the image, [{height}, {width}], got {list(size)!r:.60}.")
    runs = _uncompressed_runs(counts) if isinstance(counts, list) else _compressed_runs(counts)
    pixels = height * width
    for run in runs:
        if not 0 <= run <= pixels:
            raise TaskError(f"the RLE's runs: expected values in 0..{pixels} ({height} × {width}), got {run!r:.60}.")
    if sum(runs) != pixels:
        raise TaskError(f"the RLE's runs must add up to {height} × {width} = {pixels}; they add up to {sum(runs)}.")
    ones = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(ones, runs).reshape(width, height).T)


def looks_row_major(white: PixelMask) -> bool:
    """Whether a decoded run-length mask is scattered but would be compact if its runs were row-major.

    Compact means an outline not much longer than that of the bounding box: runs read in the wrong direction make
    stripes. A square or nearly square mask becomes its sheared mirror image, which this cannot detect.
    """
    height, width = white.shape
    if height == width or not white.any():
        return False
    other = np.ascontiguousarray(white.T).reshape(height, width)
    scattered = _outline(white)
    return scattered > 2 and scattered > 2 * _outline(other)


def _outline(mask: PixelMask) -> float:
    """Length of a mask's outline as a multiple of its bounding box's; 1 for a box."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    cut = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    edges = (cut[1:] != cut[:-1]).sum() + (cut[:, 1:] != cut[:, :-1]).sum()
    return float(edges / (2 * (cut.shape[0] - 2 + cut.shape[1] - 2)))


def _uncompressed_runs(counts: list[Any]) -> list[int]:
    for run in counts:
        if type(run) is not int:
            raise TaskError(f"the RLE's counts: expected whole numbers, got {run!r:.60}.")
    return counts


def _compressed_runs(counts: object) -> list[int]:
    """The run lengths of a compressed COCO string: base-32 digits, low first; from the third run on, the
    difference from the run two before (the format of cocoapi's maskApi.c)."""
    if isinstance(counts, bytes):  # as returned by pycocotools
        counts = counts.decode("latin-1")
    if not isinstance(counts, str):
        raise TaskError(f"the RLE's counts: expected a list or text, got {type(counts).__name__}.")
    runs: list[int] = []
    value = digits = 0
    for letter in counts:
        code = ord(letter) - 48
        if not 0 <= code < 64 or digits == 7:  # seven digits suffice for every run of an image
            raise TaskError(f"the RLE's counts are not a COCO string: {letter!r} is not valid where it stands.")
        value |= (code & 31) << (5 * digits)
        digits += 1
        if not code & 32:
            if code & 16:
                value -= 1 << (5 * digits)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = digits = 0
    if digits:
        raise TaskError("the RLE's counts are cut off in the middle of a number.")
    return runs
