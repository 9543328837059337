"""Picture files to uint8 RGB, with every doubt answered before a pixel is decoded."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image as PIL
from PIL import ImageOps

from editing.task import Image, TaskError

FORMATS = ("PNG", "JPEG", "WEBP")
"""The only decoders that are ever asked: each further one is a further way in for a hostile file."""

MAX_PIXELS = 16_000_000
"""Default cap on height × width, compared with the header before decoding."""

# What Pillow raises on damaged or hostile files of the three formats.
DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    PIL.DecompressionBombError,
)


def read_file(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """The bytes of a picture file, refused unread when larger than its pixels could ever need.

    Eight bytes hold a pixel of the widest kind (RGBA, 16 bit), so a file beyond that is not a picture
    that `decode_image` would take.

    Raises:
        TaskError: not a regular file, too large, or unreadable.
    """
    limit = 8 * max_pixels + 2**20
    try:
        if not path.is_file():
            raise TaskError(
                f"{path} must be a file; there is {'something else' if path.exists() else 'none'}."
            )
        if (size := path.stat().st_size) > limit:
            raise TaskError(
                f"{path} has {size:,} bytes; at most {limit:,} are read for {max_pixels:,} pixels."
            )
        return path.read_bytes()
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror or error}.") from error


class PictureTooLarge(TaskError):
    """A picture of more pixels than allowed, refused by its header."""


def picture_size(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) as stored, by the header alone: nothing is decoded, no EXIF orientation applied.

    Raises:
        PictureTooLarge: more than `max_pixels`.
        TaskError: no PNG, JPEG or WebP, or damaged.
    """
    return _opened(data, name, max_pixels).size


def open_picture(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> PIL.Image:
    """The decoded, upright picture in its own mode; format, frames and size are checked on the header.

    EXIF orientation is applied, so sizes are those that a viewer shows. Of an MPO (a phone's JPEG with
    an embedded second picture) the first picture is taken; animations are refused.

    Args:
        data: the file's bytes.
        name: what to call it in messages.
        max_pixels: cap on height × width.

    Raises:
        PictureTooLarge: too many pixels.
        TaskError: no PNG, JPEG or WebP; animated; damaged.
    """
    picture = _opened(data, name, max_pixels)
    try:
        if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
            raise TaskError(f"{name} must be a still picture; it is an animation.")
        picture.load()
        return ImageOps.exif_transpose(picture)
    except DECODE_ERRORS as error:
        if isinstance(error, TaskError):
            raise
        raise TaskError(f"{name} is damaged: {error}.") from error


def _opened(data: bytes, name: str, max_pixels: int) -> PIL.Image:
    """The picture with its header read and its size checked."""
    try:
        picture = PIL.open(io.BytesIO(data), formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        raise TaskError(f"{name} must be a PNG, JPEG or WebP file; its content is none of them.") from error
    except PIL.DecompressionBombError as error:
        raise PictureTooLarge(
            f"{name} must have at most {max_pixels:,} pixels; its header announces more."
        ) from error
    except DECODE_ERRORS as error:
        raise TaskError(f"{name} is damaged: {error}.") from error
    width, height = picture.size
    if width * height > max_pixels:
        raise PictureTooLarge(
            f"{name} must have at most {max_pixels:,} pixels; its header announces {width} × {height}."
        )
    return picture


def eight_bit_gray(picture: PIL.Image) -> Image | None:
    """uint8 [H, W] of a one-channel picture of more than 8 bits (value / 257, rounded); None for others."""
    if not picture.mode.startswith("I"):
        return None
    values = np.asarray(picture).astype(np.int64)
    return ((np.clip(values, 0, 65535) + 128) // 257).astype(np.uint8)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """uint8 RGB [H, W, 3] of a PNG, JPEG or WebP file.

    Rules: gray is repeated; palettes are looked up; transparency (RGBA, LA or a transparent palette
    entry) is composited on white; CMYK is converted without a colour profile; 16-bit gray becomes
    value / 257, and of 16-bit colour Pillow keeps the high byte. Embedded colour profiles are not
    applied: the values are taken as sRGB.

    Raises:
        TaskError: as `open_picture`, or a mode that none of the rules covers.
    """
    picture = open_picture(data, name, max_pixels)
    gray = eight_bit_gray(picture)
    if gray is not None:
        return np.repeat(gray[..., None], 3, axis=2)
    if picture.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"):
        raise TaskError(
            f"{name} must be gray, palette, RGB, RGBA or CMYK; its mode is {picture.mode}. Save it as RGB."
        )
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = PIL.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = PIL.alpha_composite(white, picture)
    return np.array(picture.convert("RGB"))
