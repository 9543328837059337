"""Accepted groups of the coming step, and the velocities from which their loss terms are computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from configs.schema import AdvantageConfig, TokenMasksConfig
from editing.editors.base import Condition, Editor
from editing.editors.lora import without_adapter
from editing.flow import Velocity
from editing.task import EditTask
from editing.trajectory import TrajectoryGroup
from learner.algorithms import rc_grpo
from learner.algorithms.anchors import AnchorBatch, anchor_batch
from rewards.compose import GroupReward


@dataclass
class HeldGroup:
    """An accepted group of the coming step, with what is needed of its task, whose files may be gone by then.

    Attributes:
        group, staleness: as it came.
        condition: of its task.
        noise_mask, edit_mask, preservation_mask: [N], for the noise, the metric and the preservation terms.
        behaviour: its leaps under the weights that made it, once they are known.
    """

    group: TrajectoryGroup
    staleness: int
    condition: Condition = field(repr=False)
    noise_mask: Tensor = field(repr=False)
    edit_mask: Tensor = field(repr=False)
    preservation_mask: Tensor = field(repr=False)
    behaviour: Tensor | None = field(default=None, repr=False)


def hold(editor: Editor, kinds: TokenMasksConfig, task: EditTask, group: TrajectoryGroup, staleness: int) -> HeldGroup:
    """The group with its task encoded."""
    condition = editor.encode(task)
    return HeldGroup(
        group,
        staleness,
        condition,
        noise_mask=editor.token_mask(task.edit_mask, condition, kinds.noise),
        edit_mask=editor.token_mask(task.edit_mask, condition, kinds.distance),
        preservation_mask=editor.token_mask(task.edit_mask, condition, kinds.preservation),
    )


def batch_of(held: HeldGroup, reward: GroupReward, advantage: AdvantageConfig) -> AnchorBatch:
    """The samples of a group under its rewards."""
    return anchor_batch(
        held.group,
        reward.valid,
        rc_grpo.advantages_of(reward, advantage),
        held.edit_mask,
        held.preservation_mask,
        held.condition.source_latents[0],
    )


def policy_velocity(editor: Editor, condition: Condition) -> Velocity:
    """v(x, sigma) under the adapter as it is at the call."""
    return lambda x, sigma: editor.velocity(x, sigma, condition)


def base_velocity(editor: Editor, condition: Condition) -> Velocity:
    """v(x, sigma) of the base: without the adapter."""

    def base(x: Tensor, sigma: Tensor) -> Tensor:
        with without_adapter(editor.transformer):
            return editor.velocity(x, sigma, condition)

    return base
