"""From a request to a task and its candidates, with every limit checked before a pixel is decoded.

How memory stays bounded: an image's size is read from its header and refused there; what is decoded afterwards can
be no larger, since all three decoders stop at the announced size. So the threads that decode need no processes of
their own with a memory limit.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from configs.rewards import ServiceConfig
from configs.text import one_line
from editing.images import ImageTooLarge, decode_image, image_size
from editing.masks import MaskPolarity, decode_rle, load_mask_png, to_edit_mask
from editing.task import EditTask, Image, PixelMask, TaskError
from rewards.service.body import PngMask, Rle, RleMask, ScoreRequest
from rewards.service.refusal import Refusal

MAX_SCANS = 100
"""Most scans of a JPEG (encoders write about ten). Each costs a pass over the whole image, but few bytes."""
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Parcel:
    """A request whose limits are checked and whose images are still files, all of `pixels` = height × width."""

    source: bytes
    edited: tuple[bytes, ...]
    target: bytes | None
    mask: bytes | Rle
    polarity: MaskPolarity
    instruction: str
    caption: str | None
    pixels: int

    @property
    def total_pixels(self) -> int:
        """Pixels of all its images together."""
        return self.pixels * (1 + len(self.edited) + (self.target is not None))


def unpack(request: ScoreRequest, limits: ServiceConfig) -> Parcel:
    """The request's files out of base64, within the limits by number, length and header.

    Raises:
        Refusal: 413 beyond a limit, 422 where something is not what it must be.
    """
    images = 1 + len(request.edited) + (request.target is not None)
    if images > limits.max_images:
        raise Refusal(
            413,
            f"The request has {images:,} images, source and target included; at most "
            f"{limits.max_images} are read (service.max_images). Send several requests.",
        )
    for name, text in (("instruction", request.instruction), ("caption", request.caption or "")):
        if len(text) > limits.max_prompt:
            raise Refusal(
                413,
                f"{name} has {len(text):,} characters; at most {limits.max_prompt:,} are read (service.max_prompt).",
            )
    source = _file(request.source, "source")
    pixels = _pixels(source, "source", limits)
    total, most = images * pixels, int(limits.max_total_megapixels * 1e6)
    if total > most:
        raise Refusal(
            413,
            f"The request has {images} images of {pixels:,} pixels, {total:,} together; at most "
            f"{most:,} are read (service.max_total_megapixels). Send several requests.",
        )

    def fitting(text: str, name: str) -> bytes:
        data = _file(text, name)
        # Compared by number of pixels: an EXIF orientation may still turn the image.
        if (got := _pixels(data, name, limits)) != pixels:
            raise Refusal(422, f"{name} must have the size of the source, {pixels:,} pixels; it has {got:,}.")
        return data

    return Parcel(
        source=source,
        edited=tuple(fitting(text, f"edited[{number}]") for number, text in enumerate(request.edited)),
        target=None if request.target is None else fitting(request.target, "target"),
        mask=request.mask.rle if isinstance(request.mask, RleMask) else fitting(request.mask.png, "mask.png"),
        polarity=request.mask.polarity if isinstance(request.mask, PngMask) else "edit_is_white",
        instruction=request.instruction,
        caption=request.caption,
        pixels=pixels,
    )


def decode(parcel: Parcel, name: str) -> tuple[EditTask, NDArray[np.uint8]]:
    """The task, called `name` in messages, and the candidates uint8 [G, H, W, 3].

    Raises:
        Refusal: 422 where a file is damaged, a size differs, or a text or mask is empty.
    """
    source = _checked(lambda: decode_image(parcel.source, "source", parcel.pixels))
    size = source.shape[:2]

    def sized(data: bytes, what: str) -> Image:
        image = decode_image(data, what, parcel.pixels)
        if image.shape[:2] != size:
            raise TaskError(f"{what} must have the size of the source, {list(size)}; got {list(image.shape[:2])}.")
        return image

    edited = np.empty((len(parcel.edited), *source.shape), dtype=np.uint8)
    for number, data in enumerate(parcel.edited):
        edited[number] = _checked(partial(sized, data, f"edited[{number}]"))
    task = _checked(
        lambda: EditTask(
            task_id=name,
            source=source,
            edit_mask=_mask(parcel, size),
            instruction=parcel.instruction,
            target=None if parcel.target is None else sized(parcel.target, "target"),
            caption=parcel.caption,
        )
    )
    return task, edited


def _mask(parcel: Parcel, size: tuple[int, int]) -> PixelMask:
    if isinstance(parcel.mask, Rle):
        return decode_rle(parcel.mask.model_dump(), *size)
    white = load_mask_png(parcel.mask, parcel.pixels)
    if white.shape != size:
        raise TaskError(f"the mask must have the size of the source, {list(size)}; got {list(white.shape)}.")
    return to_edit_mask(white, parcel.polarity)


def _file(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # ValueError: letters that are not ASCII
        raise Refusal(
            422,
            f"{name} must be a file's bytes in base64, without prefix or line breaks; got text "
            f"like {one_line(text, 40)!r}. The service opens no URLs and no paths.",
        ) from None


def _pixels(data: bytes, name: str, limits: ServiceConfig) -> int:
    """height × width by the header."""
    width, height = _checked(lambda: image_size(data, name, int(limits.max_megapixels * 1e6)))
    # In a JPEG's compressed data 0xFF is always followed by 0, so these two bytes only ever begin a scan (or stand in
    # a thumbnail, of which there are few).
    if data[:2] == b"\xff\xd8" and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise Refusal(413, f"{name} is a JPEG of {scans:,} scans; at most {MAX_SCANS} are read. Save it again.")
    return width * height


def _checked(step: Callable[[], T]) -> T:
    """The step's result; what the core says about an image, mask or text becomes a refusal."""
    try:
        return step()
    except ImageTooLarge as error:
        raise Refusal(413, one_line(str(error), 300)) from None
    except TaskError as error:
        raise Refusal(422, one_line(str(error), 300)) from None
