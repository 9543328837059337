"""Why the recipe stops: a sentence for whoever typed the command."""

from __future__ import annotations

import math


class RecipeError(RuntimeError):
    """The recipe cannot begin or go on; the message says what was expected, what was seen, what to change."""


def check_finite(loss: float, part: str, step: int) -> None:
    """Stops where going on would train on nothing but NaN.

    Raises:
        RecipeError: for a loss that is no finite number.
    """
    if not math.isfinite(loss):
        raise RecipeError(
            f"{part}: expected a finite loss, seen {loss} at step {step + 1}, so nothing of this run is "
            "kept; try another --seed, and check the autoencoder if --autoencoder-steps is 0"
        )
