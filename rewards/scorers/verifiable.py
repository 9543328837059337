"""Was the edit done, where the truth is known: ground truth of the benchmark, or a target image."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from editing.shapes.edits import Edit
from editing.shapes.editscore import editscore_parts
from editing.shapes.score import edit_verdict
from editing.task import EditTask
from rewards.pixel import region_psnr
from rewards.result import Score
from rewards.scorer_api import ScoreInput, refused, scores_of

NO_TRUTH = "has no ground truth; only tasks of the embedded benchmark do"


def edit_score(given: ScoreInput) -> tuple[Score, ...]:
    """How surely the mask shows the asked outcome of a benchmark task, in (0, 1]; see `editing.shapes.score`."""
    return _by_truth(given, "edit_score", lambda images, edit: edit_verdict(images, edit).score)


def editscore_truth(given: ScoreInput) -> tuple[Score, ...]:
    """EditScore's formula with its four parts from ground truth, in (0, 1]; see `editing.shapes.editscore`."""
    return _by_truth(given, "editscore_truth", lambda images, edit: editscore_parts(images, edit).overall)


def editscore_success_truth(given: ScoreInput) -> tuple[Score, ...]:
    """Editing success from ground truth, in (0, 1], the twin of `editscore_success`; equal to `edit_score`."""
    return _by_truth(given, "editscore_success_truth", lambda images, edit: editscore_parts(images, edit).success)


def editscore_preservation_truth(given: ScoreInput) -> tuple[Score, ...]:
    """Minimal over-editing from ground truth, in (0, 1], the twin of `editscore_preservation`."""
    name = "editscore_preservation_truth"
    return _by_truth(given, name, lambda images, edit: editscore_parts(images, edit).minimal_over_editing)


def edit_psnr(given: ScoreInput) -> tuple[Score, ...]:
    """PSNR in dB to the target inside the edit mask."""
    task = given.task
    if task.target is None:
        return refused(given, "edit_psnr", "has no target image; add one to its line, or drop the component")
    return scores_of(region_psnr(given.images, task.target, task.edit_mask).numpy(), "edit_psnr")


def ground_truth(task: EditTask) -> Edit | None:
    """The benchmark's ground truth of a task, if it has one."""
    edit = task.meta.get("edit")
    return edit if isinstance(edit, Edit) else None


def _by_truth(
    given: ScoreInput, name: str, values: Callable[[NDArray[np.uint8], Edit], NDArray[np.floating]]
) -> tuple[Score, ...]:
    """A score per candidate from images and ground truth; refused where the task has none."""
    edit = ground_truth(given.task)
    return refused(given, name, NO_TRUTH) if edit is None else scores_of(values(given.images, edit), name)
