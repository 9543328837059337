"""Colour profiles: from the colours that an image file means to the sRGB that the rest of the system takes them for."""

import hashlib
import io
from functools import lru_cache

import numpy as np
from PIL import Image as PIL
from PIL import ImageCms

from editing.task import TaskError

SAME = 2
"""A profile that moves no colour of a coarse grid by more than this (of 255) is sRGB under another name."""
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_GRID = np.arange(0, 256, 51, dtype=np.uint8)


def to_srgb(picture: PIL.Image, profile: bytes | None, name: str) -> tuple[PIL.Image, str | None]:
    """The picture (L, RGB or CMYK) in sRGB, and the name of the profile that it was converted from.

    Without a profile, or with one that is sRGB, the picture as it is and None. A profile for RGB in a gray file holds
    for its three equal channels.

    Raises:
        TaskError: a profile that cannot be read, or is for another kind of picture.
    """
    if not profile:
        return picture, None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space == "RGB" and picture.mode == "L":
            picture = picture.convert("RGB")
        if _MODES.get(space) != picture.mode:
            raise TaskError(
                f"{name} must have a colour profile that fits its mode {picture.mode}; it has one for "
                f"{space}. Save it as sRGB."
            )
        if picture.mode == "RGB" and _is_srgb(hashlib.sha256(profile).digest(), profile):
            return picture, None
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        described = ImageCms.getProfileDescription(source).strip()
    except (OSError, ImageCms.PyCMSError) as error:
        raise TaskError(
            f"{name} must have a colour profile that can be read, or none: {error}. Save it as sRGB."
        ) from error
    assert converted is not None
    return converted, described or f"a profile for {space}"


@lru_cache(maxsize=64)
def _is_srgb(_digest: bytes, profile: bytes) -> bool:
    """Whether an RGB profile is sRGB, by what it does to colours and not by its name."""
    colours = np.stack(np.meshgrid(_GRID, _GRID, _GRID), axis=-1).reshape(1, -1, 3)
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    moved = ImageCms.profileToProfile(PIL.fromarray(colours), source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return bool(np.abs(np.asarray(moved).astype(int) - colours).max() <= SAME)
