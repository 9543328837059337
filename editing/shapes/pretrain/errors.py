"""Errors that stop the recipe, with messages for the user."""

from __future__ import annotations

import math


class RecipeError(RuntimeError):
    """The recipe cannot start or continue; the message says what was expected, what it got and what to change."""


def check_finite(loss: float, part: str, step: int) -> None:
    """Stop if the loss is not finite, after which every step would be NaN.

    Raises:
        RecipeError: for a loss that is no finite number.
    """
    if not math.isfinite(loss):
        raise RecipeError(
            f"{part}: expected a finite loss, got {loss} at step {step + 1}, so nothing of this run is "
            "kept; try another --seed, and check the autoencoder if --autoencoder-steps is 0"
        )
