"""Rollout: a task and a lease in, a whole trajectory group out. Pure: no Ray, no state but the editor's weights.

Everything random follows from the lease's seed, so the same lease under the same weights gives the same bits
in any process of one machine (same threads, same micro-batch).
"""

from __future__ import annotations

import time
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from configs.reward_regions import named_regions
from configs.schema import RunConfig
from editing.editors.base import Condition, Editor
from editing.flow import Solver, integrate
from editing.noise import NoiseRecipe, noise_digest
from editing.regions import check_regions
from editing.rollout_spec import rollout_spec
from editing.task import EditTask, Image, NotFinite
from editing.trajectory import Lease, MessageError, Shown, TrajectoryGroup, not_finite


def roll_out(editor: Editor, task: EditTask, lease: Lease, config: RunConfig, config_hash: str) -> TrajectoryGroup:
    """The group of G candidates that the lease stands for, under the weights the editor holds.

    One reference noise, perturbed inside the mask (RDP, arXiv 2604.09386 Eq. 10-11) or as the method wants it
    (`editing.rollout_spec`), integrated in one batch. Kept are the states that training needs: of every kept step t_j
    the candidates at sigma[t_j + 1] and the anchors' predecessors at sigma[t_j]. ACD is measured over all T steps and
    the last blocks when `rewards.weights` gives `acd` a weight.

    For a method that learns from given images they are the candidates, and nothing is integrated.

    Raises:
        EditorError: when the editor cannot take the task.
        TaskError: when the task lacks a region that a reward belongs to.
        MessageError: when latents or pixels are not finite.
        TaskError: when the task lacks the images that it is asked for.
    """
    start = time.monotonic()
    check_regions(task, named_regions(config.algorithm, config.rewards))
    # Outside of inference mode: the editor keeps the condition, and the learner may share the editor.
    condition, spec = editor.encode(task), rollout_spec(config, lease)
    if spec.given is not None:
        given = spec.given.images(task, lease.seed)
        latents = _numpy(editor.encode_images(given, condition))
        return TrajectoryGroup(
            lease=lease,
            task_id=task.task_id,
            policy_version=lease.policy_version,
            config_hash=config_hash,
            noise=None,
            sigmas=_numpy(editor.sigmas(spec.steps, condition)),
            kept_steps=spec.kept,
            anchors=np.array(spec.anchors, dtype=np.int64),
            candidates=latents[None],
            predecessors=np.empty((1, 0, *latents.shape[1:]), dtype=np.float32),
            images=given,
            acd=None,
            seconds=time.monotonic() - start,
        )
    recipe = spec.recipe(lease)
    edit_mask = editor.token_mask(task.edit_mask, condition, config.token_masks.noise)
    drawn = recipe.draw(edit_mask, condition.source_latents.shape[-1])
    sigmas = editor.sigmas(spec.steps, condition)
    kept = {state for step in spec.kept for state in (step, step + 1)}
    measured = config.rewards.weights.get("acd", 0) != 0
    with torch.inference_mode():
        attended = editor.token_mask(task.edit_mask, condition, config.token_masks.attention)
        with editor.attention_probe(attended, config.rewards.acd_blocks) if measured else nullcontext() as probe:
            trajectory = integrate(
                lambda x, sigma: editor.velocity(x, sigma, condition),
                drawn.to(editor.device),
                sigmas,
                spec.solver,
                keep=kept,
                added=spec.added(recipe, drawn),
                shared=spec.shared,
            )
            acd = None if probe is None else _numpy(probe.take())
        try:
            images = editor.decode(trajectory.final, condition)
        except NotFinite as error:
            raise not_finite(lease, str(error)) from error
    anchors = np.array(spec.anchors)
    chosen = torch.from_numpy(anchors).to(editor.device)
    return TrajectoryGroup(
        lease=lease,
        task_id=task.task_id,
        policy_version=lease.policy_version,
        config_hash=config_hash,
        noise=noise_digest(drawn),
        sigmas=_numpy(sigmas),
        kept_steps=spec.kept,
        anchors=anchors,
        candidates=np.stack([_numpy(trajectory.states[step + 1]) for step in spec.kept]),
        predecessors=np.stack([_numpy(trajectory.states[step][chosen]) for step in spec.kept]),
        images=images,
        acd=acd,
        seconds=time.monotonic() - start,
    )


def sample(editor: Editor, task: EditTask, seed: int, steps: int, solver: Solver) -> Image:
    """The unperturbed edit of a task from the noise of `seed`, uint8 [H, W, 3]: what a user would get.

    Raises:
        MessageError: when latents or pixels are not finite.
    """
    condition = editor.encode(task)
    with torch.inference_mode():
        return _decode_one(editor, task, condition, _integrate_one(editor, condition, seed, steps, solver))


def show(editor: Editor, task: EditTask, index: int, seed: int, steps: int, solver: Solver, blocks: int) -> Shown:
    """The image of `sample`, with the attention of the last `blocks` blocks over the token grid; raises as it."""
    condition = editor.encode(task)
    mask = editor.token_mask(task.edit_mask, condition)
    with torch.inference_mode():
        with editor.attention_probe(mask, blocks, capture_map=True) as probe:
            final = _integrate_one(editor, condition, seed, steps, solver)
            attention = _numpy(probe.take_map())[0].reshape(condition.grid)
        image = _decode_one(editor, task, condition, final)
    return Shown(index=index, task_id=task.task_id, image=image, attention=attention)


def _integrate_one(editor: Editor, condition: Condition, seed: int, steps: int, solver: Solver) -> Tensor:
    # The reference of a group does not depend on the strengths.
    recipe = NoiseRecipe(seed, alpha_edit=0.0, alpha_base=0.0, group_size=1)
    noise = recipe.reference(condition.tokens, condition.source_latents.shape[-1])[None].to(editor.device)
    return integrate(
        lambda x, sigma: editor.velocity(x, sigma, condition), noise, editor.sigmas(steps, condition), solver
    ).final


def _decode_one(editor: Editor, task: EditTask, condition: Condition, final: Tensor) -> Image:
    try:
        image: Image = editor.decode(final, condition)[0]
    except NotFinite as error:
        raise MessageError(f"task {task.task_id}: its {error}") from error
    return image


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.to("cpu", torch.float32).numpy()
    return array
