"""Photographs as backgrounds of the embedded benchmark: a folder of images, validated before use."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image as PIL

from editing.images import decode_image, read_file
from editing.task import Image, TaskError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VERSION = 2  # increment when the same files would give other backgrounds
_sound: set[tuple[str, int]] = set()  # validated digests and sizes: training and held-out tasks open the same folder


def photo_paths(folder: str) -> list[Path]:
    """The images of a folder, sorted by name.

    Raises:
        TaskError: there is no such folder, or no image in it.
    """
    path = Path(folder)
    paths = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else []
    if not paths:
        raise TaskError(f"data.photo_folder: expected a folder with PNG, JPEG or WebP images, got {folder!r}.")
    return paths


def photos_digest(folder: str, size: int) -> str:
    """sha256 (hex) of the names and bytes of the images in a folder, which determine every photo background.

    Every image is decoded once, so that a faulty one is found before hours of training, not after.

    Args:
        folder: folder of the images.
        size: size of the backgrounds in pixels, the minimum height and width of an image.

    Raises:
        TaskError: as `photo_paths`, or any image is faulty; the message names up to ten.
    """

    def check(path: Path) -> str | TaskError:
        try:
            data = read_file(path)
            digest = hashlib.sha256(data).hexdigest()
            if (digest, size) not in _sound:
                _decode(data, path, size)
                _sound.add((digest, size))
        except TaskError as error:
            return error
        return f"{path.name} {digest}\n"

    paths = photo_paths(folder)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        checked = list(pool.map(check, paths))
    faults = [entry for entry in checked if isinstance(entry, TaskError)]
    if faults:
        shown = "".join(f"\n  {fault}" for fault in faults[:10])
        more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise TaskError(
            f"data.photo_folder: {len(faults)} of the {len(paths)} images in {folder} cannot be used; "
            f"save them again, or remove them.{shown}{more}"
        )
    return hashlib.sha256("".join([f"{VERSION}\n", *map(str, checked)]).encode()).hexdigest()


def photo_crop(folder: str, seed: int, size: int) -> np.ndarray:
    """A seeded square crop of one image of `folder`, as float32 [size, size, 3] in [0, 1], slightly muted; read-only.

    Raises:
        TaskError: the image is faulty.
    """
    paths = photo_paths(folder)
    rng = np.random.default_rng(seed)
    path = paths[rng.integers(len(paths))]
    photo = PIL.fromarray(_decode(read_file(path), path, size))
    side = int(min(photo.size) * rng.uniform(0.35, 1.0))
    left, top = (int(rng.integers(0, extent - side + 1)) for extent in photo.size)
    crop = photo.resize((size, size), PIL.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    pixels = np.asarray(crop, dtype=np.float32) / 255
    grey = pixels.mean(axis=-1, keepdims=True)
    muted: np.ndarray = grey + 0.6 * (pixels - grey)  # saturated objects stay the most colourful things in the image
    muted.flags.writeable = False
    return muted


def _decode(data: bytes, path: Path, size: int) -> Image:
    photo = decode_image(data, str(path))
    height, width = photo.shape[:2]
    if min(height, width) < size:
        raise TaskError(f"{path} must have at least {size} × {size} pixels; it has {width} × {height}.")
    return photo
