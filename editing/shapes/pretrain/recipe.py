"""Settings of the recipe, and their validation before it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from editing.shapes.pretrain.errors import RecipeError
from editing.shapes.pretrain.quality import LEAST_SCENES

AUTOENCODER_BATCH = 16
BASE_BATCH = 64
MOST_PROCESSES = 8
"""Maximum of the default: beyond it, a process has only one or two images per step and waits for the others."""


def default_processes() -> int:
    """One process per core, up to the number that still has enough work."""
    return min(os.cpu_count() or 1, MOST_PROCESSES)


@dataclass(frozen=True)
class Recipe:
    """Settings of `python -m editing.shapes.pretrain`; its flags have the same names.

    The number of processes determines the random draws: another number gives another base, of the same batch size and
    quality.

    Attributes:
        seed: seed of all randomness.
        processes: processes that share every batch.
        device: device of the transformer during training.
        autoencoder_steps: training steps of the autoencoder; 0 keeps that of the replaced base.
        autoencoder_images: training images of the autoencoder.
        steps: training steps of the transformer and the text encoders.
        pairs: their training pairs.
        scenes: scenes of the validation split on which the numbers in the card are measured.

    Raises:
        RecipeError: settings that cannot work.
    """

    seed: int
    processes: int
    device: str
    autoencoder_steps: int
    autoencoder_images: int
    steps: int
    pairs: int
    scenes: int

    def __post_init__(self) -> None:
        batch = AUTOENCODER_BATCH if self.autoencoder_steps else BASE_BATCH
        if not 1 <= self.processes <= batch:
            raise RecipeError(
                f"--processes: expected 1 to {batch}, at least one sample of every batch for each, got "
                f"{self.processes}; set --processes {min(max(1, self.processes), batch)}"
            )
        least = {
            "seed": 0,
            "autoencoder_steps": 0,
            "autoencoder_images": self.processes,
            "steps": 1,
            "pairs": self.processes,
            "scenes": LEAST_SCENES,
        }
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise RecipeError(
                    f"--{name.replace('_', '-')}: expected at least {smallest}, got {getattr(self, name)}"
                )
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise RecipeError(
                f"--device: expected a device of this machine, got {self.device}, and torch sees no "
                "GPU; set --device cpu"
            )
