"""Training images of the recipe: scenes, general images for the autoencoder, and imperfect targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from editing.shapes.edits import THINGS, Edit, edit_at
from editing.shapes.scenes import COLOURS, SHAPES, SIZE, Thing, paint, smooth_noise, to_uint8

MISSED, WRONG, CAST = 0.15, 0.12, 0.6  # how often a target misses the edit, gets it wrong, drifts in colour


def dead_leaves(rng: np.random.Generator) -> np.ndarray:
    """Overlapping soft-edged discs of random size and colour, the classic model of natural images; uint8."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    image = np.broadcast_to(rng.uniform(0, 1, 3), (SIZE, SIZE, 3)).astype(np.float32)
    for _ in range(int(rng.integers(8, 40))):
        radius = 2.0 + 20.0 * rng.beta(1, 3)
        distance = np.hypot(rows - rng.uniform(0, SIZE), columns - rng.uniform(0, SIZE)) - radius
        cover = np.clip(0.5 - distance / rng.uniform(1, 3), 0, 1)[..., None]
        colour = rng.uniform(0, 1, 3) + 0.1 * smooth_noise(rng, 4)[..., None] * rng.uniform(0, 1)
        image = image * (1 - cover) + colour * cover
    return to_uint8(image)


def autoencoder_images(seed: int, count: int) -> np.ndarray:
    """uint8 [count, 64, 64, 3]: three scenes of the training split to one dead-leaves image."""
    images = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        if index % 4 == 3:
            images.append(dead_leaves(rng))
        else:
            edit = edit_at("train", seed, index)
            images.append(to_uint8(paint(edit.target_scene if index % 2 else edit.scene)))
    return np.stack(images)


def _colour_drift(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A smooth colour cast and contrast change over the whole image."""
    gain = 1 + rng.uniform(-0.15, 0.15, 3)
    cast = 0.05 * np.stack([smooth_noise(rng, 3) for _ in range(3)], axis=-1) + rng.uniform(-0.07, 0.07, 3)
    return np.clip((image - 0.5) * gain + 0.5 + cast, 0, 1)


def _wrong(rng: np.random.Generator, edit: Edit) -> Edit:
    """The edit with one attribute of its outcome wrong."""
    if edit.after is None:
        return replace(edit, after=THINGS[rng.integers(len(THINGS))])
    if rng.uniform() < 0.5:
        return replace(
            edit, after=Thing(str(rng.choice([c for c in COLOURS if c != edit.after.colour])), edit.after.shape)
        )
    return replace(edit, after=Thing(edit.after.colour, str(rng.choice([s for s in SHAPES if s != edit.after.shape]))))


def imperfect_target(rng: np.random.Generator, edit: Edit) -> np.ndarray:
    """A target as a mediocre teacher would paint it, uint8 [64, 64, 3].

    A base trained on these makes mistakes that depend on the noise, which is what leaves something to select.
    """
    chance = rng.uniform()
    if chance < MISSED:
        image = paint(edit.scene)
    elif chance < MISSED + WRONG:
        image = paint(_wrong(rng, edit).target_scene)
    else:
        image = paint(edit.target_scene)
    if rng.uniform() < CAST:
        image = _colour_drift(rng, image)
    return to_uint8(image)
