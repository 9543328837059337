"""A small data set of real photographs, made from the images bundled with scikit-image (nothing is downloaded).

    python -m evaluation.photos FOLDER

writes sources and masks as PNG, `manifest.jsonl` (training) and `held_out.jsonl`, and `overview.png` with the
masks drawn over the images. There is no ground truth: it is what a user's own data looks like.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PIL
from PIL import ImageDraw

from configs.commands import command
from configs.output import protect_output
from configs.paths import path_argument
from editing.images import decode_image, read_file
from editing.task import Image, PixelMask

LONG_SIDE = 256
"""Default length in pixels of an image's longer side."""

Point = tuple[float, float]


class PhotosError(RuntimeError):
    """The data set cannot be created; the message says what is missing and what to type."""


@dataclass(frozen=True)
class Ellipse:
    """Centre and radii; x in shares of the width, y in shares of the height."""

    x: float
    y: float
    radius_x: float
    radius_y: float


@dataclass(frozen=True)
class Polygon:
    """Corners (x, y), in shares of width and height."""

    corners: tuple[Point, ...]


@dataclass(frozen=True)
class Photo:
    """One task: a bundled image, the shapes whose union may change, and what to do there.

    `as_rle` writes the mask into the line as COCO run lengths instead of a PNG file.
    """

    task_id: str
    file: str
    instruction: str
    shapes: tuple[Ellipse | Polygon, ...]
    as_rle: bool = False


TRAIN = (
    Photo(
        "cat",
        "chelsea.png",
        "make the eyes of the cat blue",
        (Ellipse(0.385, 0.385, 0.085, 0.125), Ellipse(0.707, 0.447, 0.062, 0.105)),
    ),
    Photo("coffee", "coffee.png", "make the coffee green", (Ellipse(0.503, 0.385, 0.135, 0.13),)),
    Photo(
        "rocket",
        "rocket.jpg",
        "remove the rocket",
        (Polygon(((0.478, 0.30), (0.53, 0.30), (0.53, 0.95), (0.478, 0.95))),),
    ),
    Photo("helmet", "astronaut.png", "make the helmet red", (Ellipse(0.76, 0.84, 0.225, 0.185),)),
    Photo("motorcycle", "motorcycle_left.png", "make the front wheel yellow", (Ellipse(0.82, 0.72, 0.12, 0.20),)),
    Photo("coin", "coins.png", "remove the coin", (Ellipse(0.872, 0.143, 0.08, 0.10),), as_rle=True),
)

HELD_OUT = (
    Photo("crater", "moon.png", "remove the crater", (Ellipse(0.237, 0.172, 0.062, 0.062),)),
    Photo(
        "camera",
        "camera.png",
        "make the camera blue",
        (Polygon(((0.50, 0.265), (0.645, 0.265), (0.645, 0.36), (0.50, 0.36))),),
    ),
)


def paint_mask(shapes: Sequence[Ellipse | Polygon], size: tuple[int, int]) -> PixelMask:
    """bool [height, width] for `size` = (height, width): True inside any of the shapes."""
    height, width = size
    canvas = PIL.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    for shape in shapes:
        if isinstance(shape, Ellipse):
            left, right = (shape.x - shape.radius_x) * width, (shape.x + shape.radius_x) * width
            top, bottom = (shape.y - shape.radius_y) * height, (shape.y + shape.radius_y) * height
            draw.ellipse((left, top, right, bottom), fill=255)
        else:
            draw.polygon([(x * width, y * height) for x, y in shape.corners], fill=255)
    return np.asarray(canvas) > 0


def encode_rle(mask: PixelMask) -> dict[str, Any]:
    """The mask as an uncompressed COCO run-length object: runs down the columns, zeros first."""
    flat = mask.T.reshape(-1)
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], borders, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def bundled_folder() -> Path:
    """The folder of scikit-image's images.

    Raises:
        PhotosError: when scikit-image is not installed.
    """
    if importlib.util.find_spec("skimage") is None:
        raise PhotosError(
            "The photographs come with scikit-image, which is not installed; type: pip install scikit-image "
            "(or: pip install -e '.[dev]')."
        )
    import skimage

    return Path(skimage.__file__).parent / "data"


def load_photo(photo: Photo, bundled: Path, long_side: int) -> Image:
    """uint8 [H, W, 3], its longer side `long_side` pixels.

    Raises:
        PhotosError: when this version of scikit-image does not carry the image.
    """
    path = bundled / photo.file
    if not path.is_file():
        raise PhotosError(
            f"scikit-image: expected {photo.file} in {bundled}, got none; type: pip install 'scikit-image>=0.26'."
        )
    image = PIL.fromarray(decode_image(read_file(path), photo.file))
    scale = long_side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, PIL.Resampling.LANCZOS))


def write_photos(folder: Path, long_side: int = LONG_SIDE, bundled: Path | None = None) -> tuple[Path, Path]:
    """Write the data set and return the paths of its training and held-out manifest.

    Args:
        folder: made if need be; files of the same names are replaced.
        long_side: of every image, in pixels, at least 64 (below that the smaller masks vanish).
        bundled: where the images lie; None asks scikit-image.

    Raises:
        PhotosError: when scikit-image or one of its images is missing, or for a smaller side.
    """
    if long_side < 64:
        raise PhotosError(f"longer side: expected at least 64 pixels, got {long_side}.")
    bundled = bundled_folder() if bundled is None else bundled
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Image] = []
    manifests = []
    for name, photos in (("manifest.jsonl", TRAIN), ("held_out.jsonl", HELD_OUT)):
        lines: list[dict[str, Any]] = [{"locus_manifest": 1, "mask_polarity": "edit_is_white"}]
        for photo in photos:
            image = load_photo(photo, bundled, long_side)
            mask = paint_mask(photo.shapes, image.shape[:2])
            lines.append(_write_task(folder, photo, image, mask))
            drawn.append(_tinted(image, mask))
        manifests.append(folder / name)
        manifests[-1].write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    _contact_sheet(drawn, long_side).save(folder / "overview.png")
    return manifests[0], manifests[1]


def _write_task(folder: Path, photo: Photo, image: Image, mask: PixelMask) -> dict[str, Any]:
    """Write a task's files and return its line."""
    PIL.fromarray(image).save(folder / f"{photo.task_id}.png")
    line: dict[str, Any] = {"id": photo.task_id, "source": f"{photo.task_id}.png", "instruction": photo.instruction}
    if photo.as_rle:
        return {**line, "mask_rle": encode_rle(mask)}
    PIL.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{photo.task_id}_mask.png")
    return {**line, "mask": f"{photo.task_id}_mask.png"}


def _tinted(image: Image, mask: PixelMask) -> Image:
    shown = image.copy()
    magenta = np.array([255, 0, 255], dtype=np.uint16)
    shown[mask] = (shown[mask] + magenta) // 2
    return shown


def _contact_sheet(images: Sequence[Image], cell: int) -> PIL.Image:
    columns = 4
    sheet = PIL.new("RGB", (columns * (cell + 8), -(-len(images) // columns) * (cell + 8)), "white")
    for place, image in enumerate(images):
        sheet.paste(PIL.fromarray(image), (place % columns * (cell + 8) + 4, place // columns * (cell + 8) + 4))
    return sheet


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the data set and print the next command; 0 if it was written."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.photos", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=path_argument, help="where to write the data set")
    parser.add_argument("--long-side", type=int, default=LONG_SIDE, help=f"pixels, default {LONG_SIDE}")
    options = parser.parse_args(arguments)
    try:
        train, held_out = write_photos(options.folder, options.long_side)
    except PhotosError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"{train}: {len(TRAIN)} tasks; {held_out}: {len(HELD_OUT)}; "
        f"look at {options.folder / 'overview.png'}\nNext:\n"
        "  "
        + command(
            "learner.main",
            "--config",
            "my_images",
            "--name",
            "photos",
            "--data.path",
            train,
            "--data.held_out_path",
            held_out,
            "--data.resolution",
            "128",
            "--learner.steps",
            "4",
        )
    )
    return 0


if __name__ == "__main__":
    protect_output()
    sys.exit(main())
