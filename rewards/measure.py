"""Measurements of an edited picture against what is known of its task: no judge, no reward."""

from __future__ import annotations

from editing.shapes.editscore import editscore_parts
from editing.shapes.score import edit_verdict
from editing.task import EditTask, Image
from rewards.inputs import ScoreInput
from rewards.pixel import background_psnr, background_ssim, region_psnr
from rewards.scorers.verifiable import ground_truth


def measured(task: EditTask, image: Image) -> dict[str, float]:
    """Metrics of one edited picture; those that the task has no truth for are left out.

    edit_score, editscore_truth and edit_accuracy (0 or 1) need the benchmark's ground truth, edit_psnr a target,
    background_psnr and background_ssim a pixel outside the mask.
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
    return found
