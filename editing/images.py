"""Picture files to uint8 RGB, with every doubt answered before a pixel is decoded."""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, ImageOps
from PIL import Image as PIL

from editing.colour import to_srgb
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
            raise TaskError(f"{path} must be a file; there is {'something else' if path.exists() else 'none'}.")
        if (size := path.stat().st_size) > limit:
            raise TaskError(f"{path} has {size:,} bytes; at most {limit:,} are read for {max_pixels:,} pixels.")
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
    return _turned(data, name, max_pixels)[0]


def _turned(data: bytes, name: str, max_pixels: int) -> tuple[PIL.Image, int]:
    """The upright picture, and the EXIF orientation that it was turned by (1: not at all)."""
    picture = _opened(data, name, max_pixels)
    try:
        if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
            raise TaskError(f"{name} must be a still picture; it is an animation.")
        picture.load()
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        ImageOps.exif_transpose(picture, in_place=True)
        return picture, orientation if orientation in range(2, 9) else 1
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
        raise PictureTooLarge(f"{name} must have at most {max_pixels:,} pixels; its header announces more.") from error
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


@dataclass(frozen=True)
class Decoded:
    """An image as its file means it.

    Attributes:
        image: uint8 sRGB [H, W, 3], upright.
        orientation: the EXIF orientation that it was turned by, 2 to 8; 1 where it was not.
        profile: name of the colour profile that was converted to sRGB; None where there was none, or it was sRGB.
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
        TaskError: as `open_picture`, a mode that none of the rules covers, or a colour profile that does not fit.
    """
    picture, orientation = _turned(data, name, max_pixels)
    profile = picture.info.get("icc_profile")
    gray = eight_bit_gray(picture)
    if gray is not None:
        picture = PIL.fromarray(gray)
    if picture.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"):
        raise TaskError(f"{name} must be gray, palette, RGB, RGBA or CMYK; its mode is {picture.mode}. Save it as RGB.")
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    if picture.mode in ("1", "LA"):
        picture = picture.convert("L")
    elif picture.mode not in ("L", "CMYK"):
        picture = _in_mode("RGB", _in_mode("RGBA", picture) if alpha is not None else picture)
    picture, described = to_srgb(picture, profile, name)
    picture = _in_mode("RGB", picture)
    if alpha is not None:
        picture = PIL.composite(picture, PIL.new("RGB", picture.size, (255, 255, 255)), alpha)
    return Decoded(np.array(picture), orientation, described)


def _in_mode(mode: str, picture: PIL.Image) -> PIL.Image:
    """The picture in a mode; Pillow would copy one that is in it already, and let no other thread run meanwhile."""
    return picture if picture.mode == mode else picture.convert(mode)
