"""The complete recipe: autoencoder, base, measurement, card."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from editing.shapes.pretrain.autoencoder import train_autoencoder
from editing.shapes.pretrain.base import train_base
from editing.shapes.pretrain.card import write_card
from editing.shapes.pretrain.errors import RecipeError
from editing.shapes.pretrain.parallel import launch
from editing.shapes.pretrain.quality import measure_quality
from editing.shapes.pretrain.recipe import AUTOENCODER_BATCH, BASE_BATCH, Recipe
from editing.shapes.pretrain.replacing import replaced

CONTENTS = (
    "README.md",
    "model_index.json",
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "transformer",
    "vae",
)
"""The contents of a base's folder."""


def make_base(out: Path, recipe: Recipe) -> None:
    """Train a base in diffusers format with its card; it replaces `out` once it is complete.

    Raises:
        RecipeError: when it cannot be made; `out` is as it was then.
    """
    start = time.monotonic()
    with replaced(out, CONTENTS) as folder:
        if recipe.autoencoder_steps:
            launch(
                train_autoencoder,
                (folder, recipe.autoencoder_steps, AUTOENCODER_BATCH, recipe.autoencoder_images, recipe.seed),
                recipe.processes,
            )
        elif (out / "vae").is_dir():
            shutil.copytree(out / "vae", folder / "vae")
        else:
            raise RecipeError(
                f"--autoencoder-steps 0: expected an autoencoder to keep, but there is no {out / 'vae'}; "
                "train one, with --autoencoder-steps above 0"
            )
        launch(
            train_base, (folder, recipe.steps, BASE_BATCH, recipe.pairs, recipe.seed, recipe.device), recipe.processes
        )
        minutes = (time.monotonic() - start) / 60
        write_card(folder, recipe, minutes, measure_quality(folder, recipe.scenes))
