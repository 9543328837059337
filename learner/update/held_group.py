"""Accepted groups of the coming step, and the velocities from which their loss terms are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from configs.method_families import MethodConfig
from configs.reward_regions import BACKGROUND, EDIT, named_regions
from configs.schema import RunConfig
from editing.editors.base import Condition, Editor
from editing.editors.lora import without_adapter
from editing.flow import Velocity
from editing.regions import region_mask
from editing.rollout_spec import rollout_spec
from editing.task import EditTask
from editing.trajectory import TrajectoryGroup
from learner.algorithms.base import AnyAlgorithm, GroupTensors, Queries, Start, group_tensors
from learner.algorithms.region_credit import RegionCredit, region_credit
from learner.algorithms.replay import Replay, replay_of
from learner.update.group_loss import GroupLoss
from rewards.compose import GroupReward


@dataclass
class HeldGroup:
    """An accepted group of the coming step, with what is needed of its task, whose files may be gone by then.

    Attributes:
        group, staleness: as it came.
        condition: of its task.
        noise_mask, edit_mask, preservation_mask: [N], for the noise, the metric and the preservation terms.
        named_masks: [N], of the task's own regions that rewards belong to.
        behaviour: velocities [P, N, C] at its queries under the weights that made it, once they are known.
    """

    group: TrajectoryGroup
    staleness: int
    condition: Condition = field(repr=False)
    noise_mask: Tensor = field(repr=False)
    edit_mask: Tensor = field(repr=False)
    preservation_mask: Tensor = field(repr=False)
    named_masks: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    behaviour: Tensor | None = field(default=None, repr=False)

    @property
    def source(self) -> Tensor:
        """Clean source latents float32 [N, C]."""
        return self.condition.source_latents[0]


def hold(editor: Editor, config: RunConfig, task: EditTask, group: TrajectoryGroup, staleness: int) -> HeldGroup:
    """The group with its task encoded.

    Raises:
        TaskError: when the task lacks a region that a reward belongs to.
    """
    condition, kinds = editor.encode(task), config.token_masks
    return HeldGroup(
        group,
        staleness,
        condition,
        noise_mask=editor.token_mask(task.edit_mask, condition, kinds.noise),
        edit_mask=editor.token_mask(task.edit_mask, condition, kinds.distance),
        preservation_mask=editor.token_mask(task.edit_mask, condition, kinds.preservation),
        named_masks={
            name: editor.token_mask(region_mask(task, name), condition, kinds.distance)
            for name in named_regions(config.algorithm, config.rewards)
        },
    )


@dataclass(frozen=True, eq=False)
class Credit:
    """The rewards of a group, and its advantages float32 [G]: zero where invalid, all zero for a filtered group.

    `regions` are those of each region, likewise, and then the group counts as filtered where they are all zero and one
    of them is filtered; None where credit is given per candidate.
    """

    reward: GroupReward
    advantages: Tensor
    regions: Mapping[str, Tensor] | None = None


def tensors_of(held: HeldGroup, credit: Credit, config: RunConfig) -> GroupTensors:
    """The group under its rewards, as its method sees it."""
    return group_tensors(
        held.group,
        torch.tensor(credit.reward.valid),
        credit.advantages,
        held.edit_mask,
        held.source,
        held.condition.grid,
        _by_region(held, credit, config.algorithm),
        _start(held, config) if config.algorithm.restarts else None,
    )


def _start(held: HeldGroup, config: RunConfig) -> Start:
    """Where the group's anchors began, drawn anew from its seed."""
    recipe = rollout_spec(config, held.group.lease).recipe(held.group.lease)
    noise = recipe.draw(held.noise_mask, held.source.shape[-1])
    return Start(noise[torch.from_numpy(held.group.anchors)], config.sampler.solver)


def _by_region(held: HeldGroup, credit: Credit, method: MethodConfig) -> RegionCredit | None:
    config = method.by_region
    if config is None or credit.regions is None:
        return None
    masks = {EDIT: held.edit_mask, BACKGROUND: 1 - held.edit_mask, **held.named_masks}
    names = tuple(credit.regions)
    return region_credit(
        names,
        torch.stack([masks[name].cpu().float() for name in names]),
        torch.stack([credit.regions[name] for name in names], dim=1),
        torch.tensor([config.weights.get(name, 1.0) for name in names]),
        held.condition.grid,
        config.ring,
    )


def loss_of(
    held: HeldGroup,
    tensors: GroupTensors,
    method: AnyAlgorithm,
    editor: Editor,
    config: RunConfig,
    weights: MethodConfig,
) -> GroupLoss:
    """What the group is trained on; `weights` are the method's settings of the present step."""
    return GroupLoss(
        method,
        weights,
        method.queries(tensors),
        tensors.is_silent,
        held.source,
        held.preservation_mask.to(held.source),
        policy_velocity(editor, held.condition),
        base_velocity(editor, held.condition),
        config.editor.micro_batch,
    )


def replay(held: HeldGroup, tensors: GroupTensors, config: RunConfig) -> Replay:
    """The stored transitions of a group that was rolled out, with the noise that was added on the way drawn anew."""
    spec = rollout_spec(config, held.group.lease)
    if spec.sde is None:
        return replay_of(tensors, None, None, 0.0)
    recipe = spec.recipe(held.group.lease)
    shape = tensors.predecessors.shape[2:]
    noise = torch.cat([recipe.draw_step(step, spec.anchors, *shape) for step in spec.kept])
    return replay_of(tensors, noise, spec.sde, spec.level)


@torch.no_grad()
def velocities_at(queries: Queries, velocity: Velocity, micro_batch: int | None) -> Tensor:
    """[P, N, C] without gradient, in the batches of training."""
    return torch.cat([velocity(queries.x[rows], queries.sigma[rows]) for rows in queries.chunks(micro_batch)])


def policy_velocity(editor: Editor, condition: Condition) -> Velocity:
    """v(x, sigma) under the adapter as it is at the call."""
    return lambda x, sigma: editor.velocity(x, sigma, condition)


def base_velocity(editor: Editor, condition: Condition) -> Velocity:
    """v(x, sigma) of the base: without the adapter."""

    def base(x: Tensor, sigma: Tensor) -> Tensor:
        with without_adapter(editor.transformer):
            return editor.velocity(x, sigma, condition)

    return base
