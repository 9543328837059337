"""Draws that are fixed for all time: ranks and shares of raw Philox words, on every machine and numpy alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from editing.trajectory import derive_seed


def draw(seed: int, stream: str, among: range | tuple[int, ...], count: int) -> tuple[int, ...]:
    """`count` of some numbers, uniform without replacement, rising."""
    words = _words(seed, stream, len(among))
    return tuple(sorted(among[int(index)] for index in np.argsort(words, kind="stable")[:count]))


def uniform(seed: int, stream: str, count: int) -> NDArray[np.float64]:
    """[count] independent numbers in [0, 1)."""
    return (_words(seed, stream, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _words(seed: int, stream: str, count: int) -> NDArray[np.uint64]:
    words: NDArray[np.uint64] = np.random.Philox(key=derive_seed(seed, stream)).random_raw(count)
    return words
