"""Scenes of the embedded benchmark: the content of an image, and how it is painted.

A scene is a muted background and one to three glossy objects, each in its own quadrant. Painting is a pure
function of the scene (signed distance fields, so edges are anti-aliased and every mask is exact), which gives
the ground truth of any edit by painting the edited scene. Images are float32 [64, 64, 3] in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image

from editing.shapes.photos import photo_crop

SIZE = 64
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.22, 0.20),
    "green": (0.26, 0.68, 0.30),
    "blue": (0.20, 0.42, 0.88),
    "yellow": (0.97, 0.79, 0.20),
}
SHAPES = ("circle", "square", "triangle")
PLACES: dict[str, tuple[float, float]] = {  # centre of each quadrant, (row, column) in pixels
    "top left": (17.0, 17.0),
    "top right": (17.0, 47.0),
    "bottom left": (47.0, 17.0),
    "bottom right": (47.0, 47.0),
}
BACKGROUNDS = ("sky", "hills", "wood", "tiles", "waves")
_ROWS, _COLUMNS = (grid.astype(np.float32) + 0.5 for grid in np.mgrid[0:SIZE, 0:SIZE])


@dataclass(frozen=True)
class Thing:
    """One object: a colour and a shape, e.g. a red circle."""

    colour: str
    shape: str

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Background (kind or photo index, with its own seed), things by place, and where each place's centre lies.

    The geometry belongs to the place, not to the thing: whatever is put there has that centre and radius, so
    every alternative outcome of an edit can be painted exactly.
    """

    background: str
    background_seed: int
    things: tuple[tuple[str, Thing], ...]
    centres: tuple[tuple[float, float], ...]
    radius: float

    def thing_at(self, place: str) -> Thing | None:
        return dict(self.things).get(place)

    def with_thing(self, place: str, thing: Thing | None) -> Scene:
        """The same scene with `thing` (or nothing) at `place`."""
        things = {name: old for name, old in self.things if name != place}
        if thing is not None:
            things[place] = thing
        return replace(self, things=tuple((name, things[name]) for name in PLACES if name in things))


def smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Band-limited noise [64, 64], about unit range: a random `cells`×`cells` grid, bicubically enlarged."""
    grid = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float32)


def _muted_pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two calm colours: low saturation keeps the saturated objects readable."""
    base = rng.uniform(0.25, 0.85)
    tint = rng.uniform(-0.10, 0.10, (2, 3))
    shade = rng.choice([-1.0, 1.0]) * rng.uniform(0.08, 0.22)
    return (
        np.clip(base + tint[0], 0.1, 0.95).astype(np.float32),
        np.clip(base + shade + tint[1], 0.1, 0.95).astype(np.float32),
    )


@lru_cache(maxsize=64)
def paint_background(kind: str, seed: int) -> np.ndarray:
    """Background image [64, 64, 3], deterministic in (kind, seed); the returned array is read-only."""
    if kind.startswith("photo:"):
        return photo_crop(kind.removeprefix("photo:"), seed, SIZE)
    rng = np.random.default_rng(seed)
    low, high = _muted_pair(rng)
    if kind == "sky":  # vertical gradient with soft clouds
        mix = _ROWS / SIZE * rng.uniform(0.6, 1.0) + 0.18 * smooth_noise(rng, 5)
    elif kind == "hills":  # a soft horizon line
        horizon = rng.uniform(24, 44) + rng.uniform(2, 6) * np.sin(
            2 * np.pi * (_COLUMNS / SIZE * rng.uniform(0.7, 1.6) + rng.uniform())
        )
        mix = 1 / (1 + np.exp(-(_ROWS - horizon) / 1.5)) * 0.8 + 0.2 * _ROWS / SIZE
    elif kind == "wood":  # planks with gentle grain
        planks = np.floor(_ROWS / 16)
        tone = rng.uniform(0.2, 0.8, 5).astype(np.float32)[planks.astype(int)]
        mix = tone + 0.12 * np.sin(_COLUMNS * 0.25 + 6 * tone + 2.0 * smooth_noise(rng, 3))
    elif kind == "tiles":  # a soft checkerboard
        period = rng.choice([16.0, 21.333, 32.0])
        mix = 0.5 + 0.45 * np.tanh(4 * np.sin(np.pi * _ROWS / period) * np.sin(np.pi * _COLUMNS / period))
    elif kind == "waves":
        angle, period = rng.uniform(0, np.pi), rng.uniform(12, 26)
        mix = 0.5 + 0.5 * np.sin(
            2 * np.pi * (_ROWS * np.sin(angle) + _COLUMNS * np.cos(angle)) / period + 0.8 * smooth_noise(rng, 3)
        )
    else:
        raise ValueError(f"expected a background of {BACKGROUNDS}, got {kind!r}")
    mix = np.clip(mix, 0, 1)[..., None].astype(np.float32)
    vignette = 1 - 0.10 * (((_ROWS - 32) ** 2 + (_COLUMNS - 32) ** 2) / 2048)[..., None]
    image: np.ndarray = np.clip((low * (1 - mix) + high * mix) * vignette, 0, 1).astype(np.float32)
    image.flags.writeable = False
    return image


def signed_distance(shape: str, rows: np.ndarray, columns: np.ndarray, radius: float) -> np.ndarray:
    """Distance in pixels to the outline, negative inside, for coordinates relative to the centre."""
    distance: np.ndarray
    if shape == "circle":
        distance = np.hypot(rows, columns) - radius
    elif shape == "square":  # rounded corners
        side, corner = radius * 0.88, 2.5
        dy, dx = np.abs(rows) - side + corner, np.abs(columns) - side + corner
        distance = np.hypot(np.maximum(dy, 0), np.maximum(dx, 0)) + np.minimum(np.maximum(dy, dx), 0) - corner
    elif shape == "triangle":  # equilateral, pointing up, three half-planes, corners cut round by a circle
        inner = radius * 0.56
        rows = rows - 0.22 * radius  # the bounding box, not the centroid, sits on the centre
        edges = [rows, -0.5 * rows + 0.8660254 * columns, -0.5 * rows - 0.8660254 * columns]
        distance = np.maximum(np.maximum.reduce(edges) - inner, np.hypot(rows, columns) - 1.02 * radius)
    else:
        raise ValueError(f"expected a shape of {SHAPES}, got {shape!r}")
    return distance


def paint_thing(image: np.ndarray, thing: Thing, centre: tuple[float, float], radius: float) -> np.ndarray:
    """`image` with a soft shadow and the glossy object composed over it; a new array."""
    rows, columns = _ROWS - centre[0], _COLUMNS - centre[1]
    distance = signed_distance(thing.shape, rows, columns, radius)
    cast = signed_distance(thing.shape, rows - 1.5, columns - 1.0, radius)
    shadow = 0.30 * np.clip(0.5 - cast / 5.0, 0, 1)[..., None] * np.clip(2.5 - cast / 2.0, 0, 1)[..., None]
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    light = 0.10 - 0.16 * rows / radius + 0.10 * np.clip(-distance / 4, 0, 1)
    gloss = 0.45 * np.exp(-((rows + 0.40 * radius) ** 2 + (columns + 0.30 * radius) ** 2) / (0.10 * radius**2))
    body = np.array(COLOURS[thing.colour], dtype=np.float32) * (1 + light[..., None] - 0.08)
    body = body + (1 - body) * gloss[..., None]
    painted: np.ndarray = np.clip(image * (1 - shadow) * (1 - cover) + body * cover, 0, 1).astype(np.float32)
    return painted


def paint(scene: Scene) -> np.ndarray:
    """The scene as float32 [64, 64, 3] in [0, 1]."""
    image = paint_background(scene.background, scene.background_seed)
    centres = dict(zip(PLACES, scene.centres, strict=True))
    for place, thing in scene.things:
        image = paint_thing(image, thing, centres[place], scene.radius)
    return image


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Float [..., 3] in [0, 1] to uint8, rounded to nearest."""
    pixels: np.ndarray = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return pixels
