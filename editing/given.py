"""Images that a method is given of a task in place of rollouts: its target, or two of its ranked edits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from configs.data_methods import GivenImages
from editing.random_draws import draw
from editing.task import EditTask, TaskError


@dataclass(frozen=True)
class Given:
    """Which images.

    Attributes:
        what: the task's target; or a pair of its ranked edits, the better first. Of a ranking of n edits all
            n (n - 1) / 2 pairs are equally likely, one per group: so tasks count alike however many edits they have.
        background: what the images are outside the edit mask: the task's source, or as they are. This is decided in
            pixels, not in latents: what an editor outside the mask is measured by are pixels, and the latents of a
            composite image are those of an image, while tokens put together from two would be of none.
    """

    what: GivenImages
    background: Literal["source", "given"]

    def images(self, task: EditTask, seed: int) -> NDArray[np.uint8]:
        """uint8 [G, H, W, 3] of a group with this seed.

        Raises:
            TaskError: when the task has none.
        """
        if self.what == "target":
            if task.target is None:
                raise TaskError(f"task {task.task_id}: expected a target, got none.")
            chosen = [task.target]
        else:
            if not task.ranked:
                raise TaskError(f"task {task.task_id}: expected ranked edits, got none.")
            chosen = [task.ranked[place] for place in draw(seed, "pair", range(len(task.ranked)), 2)]
        images = np.stack(chosen)
        return images if self.background == "given" else np.where(task.edit_mask[:, :, None], images, task.source)
