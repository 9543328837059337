"""The images for timing the reward pool."""

from __future__ import annotations

import base64

import numpy as np

from editing.task import EditTask
from rewards.scorer_api import ScoreInput

GROUP = 12
SIDE, SMALL = 512, 64


def group_of(size: int, side: int) -> ScoreInput:
    """`size` edits of an image of `side`² pixels that compresses like a photograph in PNG: smooth, with noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side] / side
    smooth = np.stack([x, y, (x + y) / 2], axis=-1) * 180 + 30
    images = [np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8) for _ in range(size + 1)]
    mask = np.zeros((side, side), dtype=np.bool_)
    mask[side // 4 : side // 2, side // 4 : side // 4 * 3] = True
    return ScoreInput(EditTask("speed", images[0], mask, "make the square red"), np.stack(images[1:]), None)


def text_of(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode("ascii")
