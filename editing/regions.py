"""The named regions of a task."""

from __future__ import annotations

from collections.abc import Iterable

from editing.task import EditTask, PixelMask, TaskError


def region_mask(task: EditTask, name: str) -> PixelMask:
    """The task's region of that name, bool [H, W]; it may be empty.

    Raises:
        TaskError: when the task has none. An empty region says that there is nothing of it in the image; without one,
            nothing is known.
    """
    if name not in task.regions:
        known = ", ".join(sorted(task.regions)) or "none"
        raise TaskError(
            f"task {task.task_id}: expected a region {name!r}, which rewards.regions names, got {known}; add it to the "
            "task (a mask without a pixel where the image has nothing of it)"
        )
    return task.regions[name]


def check_regions(task: EditTask, names: Iterable[str]) -> None:
    """Raises TaskError when the task lacks one of the regions."""
    for name in names:
        region_mask(task, name)
