"""Metrics of an edited image against the ground truth of its task, without judges.

Besides the rewards' own metrics there are some that no reward uses: a policy that improves the former by other means
than the requested edit (more colour, a cast, a blur) pays in the latter.
"""

from __future__ import annotations

import numpy as np

from editing.shapes.editscore import editscore_parts
from editing.shapes.score import edit_verdict
from editing.task import EditTask, Image
from rewards.appearance import appearance
from rewards.colour import delta_e
from rewards.pixel import background_psnr, background_ssim, region_psnr
from rewards.pyramid import pyramid_distance
from rewards.scorer_api import ScoreInput
from rewards.scorers.verifiable import ground_truth

DRIFTS = ("brightness", "contrast", "saturation", "sharpness", "cast")
"""Of `rewards.appearance.appearance`, measured to the target inside the mask and to the source outside it."""


def measured(task: EditTask, image: Image) -> dict[str, float]:
    """Metrics of one edited image; those that the task has no truth for are left out.

    Rewards are made of `edit_score`, `editscore_truth` and `edit_accuracy` (0 or 1; they need the benchmark's ground
    truth), `edit_psnr` (a target; dB), `background_psnr` (dB) and `background_ssim` (a pixel outside the mask). No
    reward uses

    - `edit_change`: mean absolute difference to the *source* inside the mask, 0..1: zero where nothing was edited;
    - `edit_delta_e`: colour difference to the target inside the mask, see `rewards.colour.delta_e`;
    - `edit_pyramid`, `background_pyramid`: distance over several scales, see `rewards.pyramid.pyramid_distance`;
    - `edit_<drift>_drift` to the target inside the mask (to the source where there is no target),
      `background_<drift>_drift` to the source outside it, for every one of `DRIFTS`, signed where a direction exists:
      see `rewards.appearance.appearance`;
    - `background_cast_share`: the share of the squared background error that one added colour explains, 0..1.
    """
    batch = ScoreInput(task, image[None], None).images
    found = {}
    edit = ground_truth(task)
    if edit is not None:
        verdict = edit_verdict(batch, edit)
        found["edit_score"] = float(verdict.score[0])
        found["editscore_truth"] = float(editscore_parts(batch, edit).overall[0])
        found["edit_accuracy"] = float(verdict.correct[0])
    if task.target is not None:
        found["edit_psnr"] = float(region_psnr(batch, task.target, task.edit_mask)[0])
    if not task.edit_mask.all():
        found["background_psnr"] = float(background_psnr(batch, task.source, task.edit_mask)[0])
        found["background_ssim"] = float(background_ssim(batch, task.source, task.edit_mask)[0])
    return {**found, **_unrewarded(task, image)}


def _unrewarded(task: EditTask, image: Image) -> dict[str, float]:
    found, inside, outside = {}, task.edit_mask, ~task.edit_mask
    found["edit_change"] = float(np.abs(image[inside].astype(np.float32) - task.source[inside]).mean()) / 255
    if task.target is not None:
        found["edit_delta_e"] = delta_e(image, task.target, inside)
        found["edit_pyramid"] = pyramid_distance(image, task.target, inside)
    look = appearance(image[None], task.source if task.target is None else task.target, inside)
    found.update({f"edit_{name}_drift": float(look[name][0]) for name in DRIFTS})
    if outside.any():
        found["background_pyramid"] = pyramid_distance(image, task.source, outside)
        look = appearance(image[None], task.source, outside)
        found.update({f"background_{name}_drift": float(look[name][0]) for name in DRIFTS})
        found["background_cast_share"] = float(look["cast_share"][0])
    return found
