"""Images and masks as inputs of embedding models. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from editing.task import PixelMask
from rewards.embedding.folder import Preprocessing

MARGIN = 0.15
"""Of the longer side of the edit's box, added on every side: what surrounds an edit says what it is."""
LEAST = 0.25
"""Of the image's shorter side: a smaller crop would be mostly interpolation, and an object without its place."""


class Box(NamedTuple):
    """A rectangle of pixels, `bottom` and `right` exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The rectangle of images [..., H, W, 3]."""
        return images[..., self.top : self.bottom, self.left : self.right, :]


def crop_box(edit_mask: PixelMask) -> Box:
    """The square around the editable pixels with a margin, moved inside the image.

    Where the image is too small for the square, the box has the image's own height or width, so that a box may be
    longer than wide; no editable pixel is ever cut off. A full mask gives the whole image.

        one pixel in 100 × 100  ->  25 × 25 around it      rows 40..60 of it  ->  100 × 100

    Args:
        edit_mask: bool [H, W], True = editable, not empty.
    """
    height, width = edit_mask.shape
    rows, columns = np.flatnonzero(edit_mask.any(axis=1)), np.flatnonzero(edit_mask.any(axis=0))
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = math.ceil(max(longer * (1 + 2 * MARGIN), LEAST * min(height, width)))
    top, bottom = _span(int(rows[0]), int(rows[-1]) + 1, side, height)
    left, right = _span(int(columns[0]), int(columns[-1]) + 1, side, width)
    return Box(top, left, bottom, right)


def _span(first: int, end: int, side: int, size: int) -> tuple[int, int]:
    """`side` pixels around [first, end), all of them inside [0, size)."""
    side = min(side, size)
    start = min(max((first + end - side) // 2, 0), size - side)
    return start, start + side


def squared(images: NDArray[np.uint8], rules: Preprocessing) -> NDArray[np.uint8]:
    """Images [N, H, W, 3] in the middle of squares of the model's mean colour, which it sees as zero.

    Squeezed into a square, an object would have other proportions; cut to one, a part of the edit would be missing.
    """
    number, height, width, _ = images.shape
    side = max(height, width)
    if height == width:
        return images
    colour = np.clip(np.round(np.array(rules.mean) / rules.scale), 0, 255).astype(np.uint8)
    result = np.broadcast_to(colour, (number, side, side, 3)).copy()
    top, left = (side - height) // 2, (side - width) // 2
    result[:, top : top + height, left : left + width] = images
    return result


def model_input(images: NDArray[np.uint8], height: int, width: int, rules: Preprocessing) -> Tensor:
    """Images uint8 [N, H, W, 3] as the model takes them: float32 [N, 3, height, width].

    The same numbers as the image processors of transformers give for images of these proportions, on every machine:
    those need torchvision or not, by model, and choose another resampling where it is installed.
    """
    resized = np.stack(
        [
            np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling(rules.resample)))
            for image in images
        ]
    )
    values = torch.from_numpy(resized).float() * rules.scale
    return ((values - torch.tensor(rules.mean)) / torch.tensor(rules.std)).permute(0, 3, 1, 2).contiguous()


def patch_grid(height: int, width: int, patch: int, side: int) -> tuple[int, int]:
    """Rows and columns of patches for an image: about as many as the model's square has, in the image's proportions.

    64 × 64 for patches of 14 and a square of 224  ->  16 × 16        512 × 1024  ->  11 × 23
    """
    area = (side / patch) ** 2
    return (max(1, round(math.sqrt(area * height / width))), max(1, round(math.sqrt(area * width / height))))


def background_shares(edit_mask: PixelMask, rows: int, columns: int) -> NDArray[np.float64]:
    """The share [rows, columns] of every patch that must not change, 0..1.

    Patch i covers rows i * H / rows to (i + 1) * H / rows of the image, to fractions of pixels.
    """
    return (
        _averaging(rows, edit_mask.shape[0])
        @ (~edit_mask).astype(np.float64)
        @ _averaging(columns, edit_mask.shape[1]).T
    )


def _averaging(parts: int, size: int) -> NDArray[np.float64]:
    """[parts, size]: row i holds how much each pixel counts in the mean of part i."""
    edges = np.arange(parts + 1) * (size / parts)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: NDArray[np.float64] = np.clip(covered, 0.0, None) * (parts / size)
    return weights
