"""What stands for the policy gate where a method learns from given images (`editing.given`).

No policy made them, so there is none to prove. What can be proved is that a group has the images of its task, in the
order of its lease, and that its latents are those that the learner's editor makes of them:

    grid      the noise levels that were stored, against those of the learner's editor
    images    pixel by pixel, against those that task and seed give here
    latents   against the learner's own encoding
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.schema import RunConfig
from editing.editors.base import Editor
from editing.rollout_spec import rollout_spec
from editing.task import EditTask
from editing.trajectory import TrajectoryGroup
from learner.update.held_group import HeldGroup
from learner.update.policy_gate import PolicyGate, PolicyGateError, check_grid

LATENTS = 2e-2
"""Largest distance of an image's latents from the learner's, relative to the length of those. On one machine they have
the same bits. On the embedded benchmark (20 tasks) bfloat16 against float32 differs by .004 to .007, so that other
devices may round as they do; the target and a wrong edit of the same task differ by .14 to 2."""


def check_origin(gate: PolicyGate, held: HeldGroup, task: EditTask, editor: Editor, config: RunConfig) -> None:
    """Raises PolicyGateError when a group was not made from what it names: its noise, or the images of its task."""
    group = held.group
    given, grid = rollout_spec(config, group.lease).given, editor.sigmas(config.sampler.steps, held.condition)
    if given is None:
        gate.check_made_from(group, held.noise_mask, held.source, grid)
        return
    images = given.images(task, group.lease.seed)
    check_given(group, images, editor.encode_images(images, held.condition), grid)


def check_given(group: TrajectoryGroup, images: NDArray[np.uint8], latents: Tensor, grid: Tensor) -> None:
    """Raises PolicyGateError when grid, images or latents are not the learner's.

    Args:
        group: as it came.
        images: uint8 [G, H, W, 3] that task and seed give here.
        latents: float32 [G, N, C], the learner's encoding of them.
        grid: float32 [T+1], the learner's noise levels.
    """
    name = group.lease.group_id
    check_grid(group, latents[0], grid)
    if not np.array_equal(group.images, images):
        raise PolicyGateError(
            f"group {name} has other images than task {group.task_id} gives here for its seed, or in another order: "
            "worker and learner do not read the same data"
        )
    wanted = latents.cpu().flatten(1)
    distance = torch.linalg.vector_norm(torch.tensor(group.candidates[0]).flatten(1) - wanted, dim=1)
    error = float((distance / torch.linalg.vector_norm(wanted, dim=1).clamp(min=torch.finfo(wanted.dtype).tiny)).max())
    if not error <= LATENTS:  # NaN fails too
        raise PolicyGateError(
            f"group {name}: the latents of its images differ by {error:.3g} of their length from those of the "
            f"learner's editor, expected at most {LATENTS:g}: the editors differ"
        )
