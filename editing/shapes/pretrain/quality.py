"""Quality of a base, measured on scenes that neither it nor its autoencoder was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from editing.editors.base import Editor
from editing.editors.load import load_editor
from editing.flow import integrate
from editing.noise import NoiseRecipe
from editing.shapes.dataset import ShapesDataset
from editing.shapes.score import edit_verdict
from editing.task import EditTask, Image, PixelMask

SPLIT = "validation"
SEED = 0  # of the scenes, as in the configuration
STEPS = 4
LEAST_SCENES = 2
"""One scene has no standard error."""
PSNR_CAP = 60.0
"""Cap in dB, as in the rewards: equal regions would have infinite PSNR."""


@dataclass(frozen=True)
class Quality:
    """Mean and standard error over `scenes` scenes, by measurement.

    `reconstruction_psnr` is the autoencoder's on the source image. The others are the base's, after `STEPS` Euler
    steps from one noise per scene: `edit_accuracy` and `edit_score` (`editing.shapes.score`), `edit_psnr` against the
    target inside the mask, `background_psnr` against the source outside it. PSNR in dB, the mean of images.
    """

    scenes: int
    mean: Mapping[str, float]
    error: Mapping[str, float]


def measure_quality(folder: Path, scenes: int) -> Quality:
    """The quality of the base in `folder` on the first `scenes` scenes of the validation split, on the CPU."""
    editor, tasks = load_editor(folder), ShapesDataset(SPLIT, scenes, SEED)
    rows = [measured(editor, tasks[index], index) for index in range(scenes)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Quality(
        scenes=scenes,
        mean={name: float(np.mean(values)) for name, values in columns.items()},
        error={name: float(np.std(values, ddof=1)) / math.sqrt(scenes) for name, values in columns.items()},
    )


def measured(editor: Editor, task: EditTask, seed: int) -> dict[str, float]:
    """The measurements that `Quality` averages, for one scene and the noise of `seed`."""
    condition = editor.encode(task)
    noise = NoiseRecipe(seed, alpha_edit=0.0, alpha_base=0.0, group_size=1).reference(
        condition.tokens, condition.source_latents.shape[-1]
    )
    with torch.inference_mode():
        final = integrate(
            lambda x, sigma: editor.velocity(x, sigma, condition), noise[None], editor.sigmas(STEPS, condition), "euler"
        ).final
        edited, rebuilt = editor.decode(torch.cat([final, condition.source_latents]), condition)
    assert task.target is not None
    verdict = edit_verdict(edited[None], task.meta["edit"])
    return {
        "reconstruction_psnr": psnr(rebuilt, task.source, np.ones_like(task.edit_mask)),
        "edit_accuracy": float(verdict.correct[0]),
        "edit_score": float(verdict.score[0]),
        "edit_psnr": psnr(edited, task.target, task.edit_mask),
        "background_psnr": psnr(edited, task.source, ~task.edit_mask),
    }


def psnr(image: Image, wanted: Image, region: PixelMask) -> float:
    """PSNR in dB inside a region of at least one pixel, at most `PSNR_CAP`."""
    error = np.square((image[region].astype(np.float64) - wanted[region]) / 255).mean()
    return float(-10 * np.log10(max(error, 10 ** (-PSNR_CAP / 10))))
