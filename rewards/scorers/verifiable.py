"""Was the edit done, where the truth is known: ground truth of the benchmark, or a target image."""

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
    edit = ground_truth(given.task)
    if edit is None:
        return refused(given, "edit_score", NO_TRUTH)
    return scores_of(edit_verdict(given.images, edit).score, "edit_score")


def editscore_truth(given: ScoreInput) -> tuple[Score, ...]:
    """EditScore's formula with its four parts from ground truth, in (0, 1]; see `editing.shapes.editscore`."""
    edit = ground_truth(given.task)
    if edit is None:
        return refused(given, "editscore_truth", NO_TRUTH)
    return scores_of(editscore_parts(given.images, edit).overall, "editscore_truth")


def editscore_success_truth(given: ScoreInput) -> tuple[Score, ...]:
    """Editing success from ground truth, in (0, 1], the twin of `editscore_success`; equal to `edit_score`."""
    edit = ground_truth(given.task)
    if edit is None:
        return refused(given, "editscore_success_truth", NO_TRUTH)
    return scores_of(editscore_parts(given.images, edit).success, "editscore_success_truth")


def editscore_preservation_truth(given: ScoreInput) -> tuple[Score, ...]:
    """Minimal over-editing from ground truth, in (0, 1], the twin of `editscore_preservation`."""
    edit = ground_truth(given.task)
    if edit is None:
        return refused(given, "editscore_preservation_truth", NO_TRUTH)
    return scores_of(editscore_parts(given.images, edit).minimal_over_editing, "editscore_preservation_truth")


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
