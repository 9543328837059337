"""Resizing of tasks to sizes that an editor supports."""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image as PIL

from editing.masks import area_coverage, loses_a_part, threshold_coverage
from editing.task import EditTask, Image, PixelMask, TaskError


def fitted_size(height: int, width: int, side: int | None, multiple: int) -> tuple[int, int]:
    """(height, width) of about side² pixels, each a multiple of `multiple` and at least that.

    The aspect ratio is kept up to the snapping; `side` None keeps the size up to the snapping.
    Example: 300 × 600 at side 512, multiple 16 gives 368 × 720.

    Raises:
        TaskError: a side or multiple below 1.
    """
    if multiple < 1 or (side is not None and side < 1):
        raise TaskError(f"expected side and multiple of at least 1, got side {side}, multiple {multiple}.")
    scale = 1.0 if side is None else side / math.sqrt(height * width)

    def snap(length: int) -> int:
        return max(1, round(length * scale / multiple)) * multiple

    return snap(height), snap(width)


def resize_image(image: Image, size: tuple[int, int]) -> Image:
    """uint8 [*size, 3] of a uint8 image [H, W, 3], by Lanczos; the same array if it already has that size."""
    if image.shape[:2] == size:
        return image
    height, width = size
    return np.array(PIL.fromarray(image).resize((width, height), PIL.Resampling.LANCZOS))


def resize_mask(mask: PixelMask, size: tuple[int, int]) -> PixelMask:
    """bool [*size] of a bool mask [H, W], by area and a threshold of one half.

    Neither region vanishes: a mask that is not empty keeps at least one pixel, the most covered one, and a mask that
    is not full leaves at least one out, the least covered (a mask of one single pixel has room for the first only).
    Empty and full masks stay so; the same array when it fits already.

    Example: of 512 × 512 pixels all but a frame of one pixel's width, 99.2 %, are editable. At 64 × 64 every cell is
    covered by three quarters and more; the first corner's, the least, stays out.
    """
    if mask.shape == size:
        return mask
    if not mask.any():
        return np.zeros(size, dtype=np.bool_)
    coverage = area_coverage(mask, size)
    resized = threshold_coverage(coverage)
    if resized.all() and not mask.all() and resized.size > 1:
        resized.flat[int(coverage.argmin())] = False
    return resized


class Fit(NamedTuple):
    """How a run resizes its images: to about `side`² pixels (None: unchanged), both lengths multiples of `multiple`,
    which is the side of a token; `half`: whether some use needs tokens that the mask covers to one half."""

    side: int | None
    multiple: int
    half: bool = False


def part_is_lost(mask: PixelMask, fit: Fit) -> bool:
    """Whether a connected part of a mask is lost at that size: thinner than half a pixel or, if tokens must be half
    covered, half a token."""
    size = fitted_size(mask.shape[0], mask.shape[1], fit.side, fit.multiple)
    resized = resize_mask(mask, size)
    if mask.shape != size and loses_a_part(area_coverage(mask, size), resized):
        return True
    coverage = area_coverage(resized, (size[0] // fit.multiple, size[1] // fit.multiple))
    return fit.half and loses_a_part(coverage, threshold_coverage(coverage))


def resize_task(task: EditTask, side: int | None, multiple: int) -> EditTask:
    """The task at about side² pixels, height and width multiples of `multiple` (see `fitted_size`).

    Source, target and ranked edits by Lanczos, edit mask and regions by area; `meta` is carried along as it is. The
    same task when it fits already.
    """
    size = fitted_size(task.height, task.width, side, multiple)
    if size == (task.height, task.width):
        return task
    return replace(
        task,
        source=resize_image(task.source, size),
        edit_mask=resize_mask(task.edit_mask, size),
        target=None if task.target is None else resize_image(task.target, size),
        ranked=tuple(resize_image(edit, size) for edit in task.ranked),
        regions={name: resize_mask(mask, size) for name, mask in task.regions.items()},
    )
