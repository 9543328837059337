"""Decoding of image files to uint8 RGB, validated as far as possible before any pixel is decoded."""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, ImageOps, UnidentifiedImageError
from PIL import Image as PIL

from editing.colour import to_srgb
from editing.task import Image, TaskError

FORMATS = ("PNG", "JPEG", "WEBP")
"""The only enabled decoders: each further one increases the attack surface for hostile files."""

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
    """The bytes of an image file, rejected unread if larger than its pixels could ever need.

    A pixel of the widest kind (RGBA, 16 bit) takes eight bytes, so `decode_image` would not accept a larger
    file.

    Raises:
        TaskError: not a regular file, too large, or unreadable.
    """
    limit = 8 * max_pixels + 2**20
    try:
        if not path.is_file():
            raise TaskError(f"{path} must be a file; there is {'something else' if path.exists() else 'none'}.")
        if (size := path.stat().st_size) > limit:
            raise TaskError(f"{path} has {size:,} bytes; at most {limit:,} are read for {max_pixels:,} pixels.")
        return path.read_bytes()
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror or error}.") from error


class ImageTooLarge(TaskError):
    """An image with too many pixels, rejected by its header."""


def image_size(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(width, height) as stored, from the header alone: nothing is decoded, no EXIF orientation applied.

    Raises:
        ImageTooLarge: more than `max_pixels`.
        TaskError: not a PNG, JPEG or WebP file, or damaged.
    """
    return _opened(data, name, max_pixels).size


def open_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> PIL.Image:
    """The decoded, upright image in its own mode; format, frames and size are checked on the header.

    EXIF orientation is applied, so sizes are those that a viewer shows. Of an MPO (a phone's JPEG with
    an embedded second image) the first image is used; animations are rejected.

    Args:
        data: the file's bytes.
        name: its name in messages.
        max_pixels: cap on height × width.

    Raises:
        ImageTooLarge: too many pixels.
        TaskError: not a PNG, JPEG or WebP file; animated; damaged.
    """
    return _turned(data, name, max_pixels)[0]


def _turned(data: bytes, name: str, max_pixels: int) -> tuple[PIL.Image, int]:
    """The upright image, and the EXIF orientation that was applied (1: none)."""
    image = _opened(data, name, max_pixels)
    try:
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise TaskError(f"{name} must be a still image; it is an animation.")
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        ImageOps.exif_transpose(image, in_place=True)
        return image, orientation if orientation in range(2, 9) else 1
    except DECODE_ERRORS as error:
        if isinstance(error, TaskError):
            raise
        raise TaskError(f"{name} is damaged: {error}.") from error


def _opened(data: bytes, name: str, max_pixels: int) -> PIL.Image:
    """The image, with its header read and its size checked."""
    try:
        image = PIL.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise TaskError(f"{name} must be a PNG, JPEG or WebP file; its content is none of them.") from error
    except PIL.DecompressionBombError as error:
        raise ImageTooLarge(f"{name} must have at most {max_pixels:,} pixels; its header announces more.") from error
    except DECODE_ERRORS as error:
        raise TaskError(f"{name} is damaged: {error}.") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(f"{name} must have at most {max_pixels:,} pixels; its header announces {width} × {height}.")
    return image


def eight_bit_gray(image: PIL.Image) -> Image | None:
    """uint8 [H, W] of a one-channel image with more than 8 bits (value / 257, rounded); None for others."""
    if not image.mode.startswith("I"):
        return None
    values = np.asarray(image).astype(np.int64)
    return ((np.clip(values, 0, 65535) + 128) // 257).astype(np.uint8)


@dataclass(frozen=True)
class Decoded:
    """A decoded image file.

    Attributes:
        image: uint8 sRGB [H, W, 3], upright.
        orientation: the EXIF orientation that was applied, 2 to 8; 1 if none.
        profile: name of the colour profile that was converted to sRGB; None if there was none, or it was sRGB.
    """

    image: Image
    orientation: int
    profile: str | None


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """uint8 sRGB [H, W, 3] of a PNG, JPEG or WebP file, see `decode`."""
    return decode(data, name, max_pixels).image


def decode(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Decoded:
    """The image of a PNG, JPEG or WebP file, and how it was read.

    Rules: EXIF orientation is applied; an embedded colour profile is converted to sRGB; gray is repeated; palettes
    are looked up; transparency (RGBA, LA or a transparent palette entry) is composited on white; CMYK without a
    profile is converted by Pillow's formula; 16-bit gray becomes value / 257, and of 16-bit colour Pillow keeps the
    high byte.

    Raises:
        TaskError: as `open_image`, a mode not covered by these rules, or a colour profile that does not fit.
    """
    image, orientation = _turned(data, name, max_pixels)
    profile = image.info.get("icc_profile")
    gray = eight_bit_gray(image)
    if gray is not None:
        image = PIL.fromarray(gray)
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"):
        raise TaskError(f"{name} must be gray, palette, RGB, RGBA or CMYK; its mode is {image.mode}. Save it as RGB.")
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode not in ("L", "CMYK"):
        image = _in_mode("RGB", _in_mode("RGBA", image) if alpha is not None else image)
    image, described = to_srgb(image, profile, name)
    image = _in_mode("RGB", image)
    if alpha is not None:
        image = PIL.composite(image, PIL.new("RGB", image.size, (255, 255, 255)), alpha)
    return Decoded(np.array(image), orientation, described)


def _in_mode(mode: str, image: PIL.Image) -> PIL.Image:
    """The image in a mode; if it already has it, Pillow would copy it and hold the GIL meanwhile."""
    return image if image.mode == mode else image.convert(mode)
