"""Scorers of the control rows: what a method gains under rewards that know nothing is its floor."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from rewards.scorer_api import ScoreInput


def noise(given: ScoreInput) -> NDArray[np.float64]:
    """Uniform in [0, 1), independent of what is in the picture; equal pictures get equal noise."""
    words = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in given.images]
    return np.array([int.from_bytes(word, "little") / 2**64 for word in words])


def constant(given: ScoreInput) -> NDArray[np.float64]:
    """The same for all, so that no group has an advantage."""
    return np.zeros(len(given.images))
