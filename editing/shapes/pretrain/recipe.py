"""The settings of the recipe, and what it refuses before it begins."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from editing.shapes.pretrain.errors import RecipeError
from editing.shapes.pretrain.quality import LEAST_SCENES

AUTOENCODER_BATCH = 16
BASE_BATCH = 64
MOST_PROCESSES = 8
"""Of the default: with more, a process has a single picture or two per step, and waits for the others."""


def default_processes() -> int:
    """One process per core, up to a number that each still has work for."""
    return min(os.cpu_count() or 1, MOST_PROCESSES)


@dataclass(frozen=True)
class Recipe:
    """Settings of `python -m editing.shapes.pretrain`; its flags have the same names.

    The number of processes decides who draws what: other numbers give other bases, of the same batches and quality.

    Attributes:
        seed: of everything random.
        processes: that share every batch.
        device: of the transformer while it trains.
        autoencoder_steps: 0 keeps the autoencoder of the base that is replaced.
        autoencoder_pictures: that the autoencoder is trained on.
        steps: of the transformer and the text encoders.
        pairs: that they are trained on.
        scenes: of the validation split that the numbers in the card are measured on.

    Raises:
        RecipeError: for settings that cannot work.
    """

    seed: int
    processes: int
    device: str
    autoencoder_steps: int
    autoencoder_pictures: int
    steps: int
    pairs: int
    scenes: int

    def __post_init__(self) -> None:
        batch = AUTOENCODER_BATCH if self.autoencoder_steps else BASE_BATCH
        if not 1 <= self.processes <= batch:
            raise RecipeError(
                f"--processes: expected 1 to {batch}, at least one sample of every batch for each, seen "
                f"{self.processes}; set --processes {min(max(1, self.processes), batch)}"
            )
        least = {
            "seed": 0,
            "autoencoder_steps": 0,
            "autoencoder_pictures": self.processes,
            "steps": 1,
            "pairs": self.processes,
            "scenes": LEAST_SCENES,
        }
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise RecipeError(
                    f"--{name.replace('_', '-')}: expected at least {smallest}, seen {getattr(self, name)}"
                )
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise RecipeError(
                f"--device: expected a device of this machine, seen {self.device}, and torch sees no "
                "GPU; set --device cpu"
            )
