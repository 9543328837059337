"""Colour profiles: conversion of an image file's colours to sRGB, which the rest of the system assumes."""

import hashlib
import io
from functools import lru_cache

import numpy as np
from PIL import Image as PIL
from PIL import ImageCms

from editing.task import TaskError

SAME = 2
"""A profile that shifts no colour of a coarse grid by more than this (of 255) counts as sRGB."""
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_GRID = np.arange(0, 256, 51, dtype=np.uint8)


def to_srgb(image: PIL.Image, profile: bytes | None, name: str) -> tuple[PIL.Image, str | None]:
    """The image (L, RGB or CMYK) in sRGB, and the name of the profile that it was converted from.

    Without a profile, or with an sRGB profile, the unchanged image and None. An RGB profile in a gray file applies to
    its three equal channels.

    Raises:
        TaskError: a profile that cannot be read, or is for another kind of image.
    """
    if not profile:
        return image, None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if _MODES.get(space) != image.mode:
            raise TaskError(
                f"{name} must have a colour profile that fits its mode {image.mode}; it has one for "
                f"{space}. Save it as sRGB."
            )
        if image.mode == "RGB" and _is_srgb(hashlib.sha256(profile).digest(), profile):
            return image, None
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        described = ImageCms.getProfileDescription(source).strip()
    except (OSError, ImageCms.PyCMSError) as error:
        raise TaskError(
            f"{name} must have a colour profile that can be read, or none: {error}. Save it as sRGB."
        ) from error
    assert converted is not None
    return converted, described or f"a profile for {space}"


@lru_cache(maxsize=64)
def _is_srgb(_digest: bytes, profile: bytes) -> bool:
    """Whether an RGB profile is sRGB, judged by its effect on colours and not by its name."""
    colours = np.stack(np.meshgrid(_GRID, _GRID, _GRID), axis=-1).reshape(1, -1, 3)
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    moved = ImageCms.profileToProfile(PIL.fromarray(colours), source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return bool(np.abs(np.asarray(moved).astype(int) - colours).max() <= SAME)
