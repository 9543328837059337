"""The anchors of a group as one batch: every (trained step, anchor) pair is a sample of a single velocity call.

Anchor states are one-step predictions from stored predecessors (adopted for Eq. 13 of arXiv 2604.09386, see
`editing.flow.leap`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from editing.flow import Velocity, leap
from editing.trajectory import TrajectoryGroup


@dataclass(frozen=True, eq=False)
class AnchorBatch:
    """P = K * B pairs of a group, step by step: pair j * B + b is anchor b at trained step j.

    Attributes:
        predecessors: float32 [P, N, C], the anchors' states at `sigma`.
        sigma: float32 [P].
        sigma_next: float32 [P], below sigma.
        stored: float32 [P, N, C], the anchors' own states at `sigma_next` as the rollout made them.
        candidates: float32 [K, V, N, C], all V valid candidates at the steps' `sigma_next`.
        advantages: float32 [V], those of the valid candidates.
        edit_mask: float32 [N] in [0, 1], 1 = editable: the edit region of the metric.
        preservation_mask: float32 [N] in [0, 1], 1 = editable: what the preservation terms take for the edit region.
        source: float32 [N, C], clean source latents.
    """

    predecessors: Tensor
    sigma: Tensor
    sigma_next: Tensor
    stored: Tensor
    candidates: Tensor
    advantages: Tensor
    edit_mask: Tensor
    preservation_mask: Tensor
    source: Tensor

    def __post_init__(self) -> None:
        pairs, tokens, channels = self.predecessors.shape
        steps, valid = self.candidates.shape[:2]
        fits = (
            self.candidates.shape[2:] == (tokens, channels)
            and self.stored.shape == self.predecessors.shape
            and self.sigma.shape == self.sigma_next.shape == (pairs,)
            and self.advantages.shape == (valid,)
            and self.edit_mask.shape == self.preservation_mask.shape == (tokens,)
            and self.source.shape == (tokens, channels)
            and steps >= 1
            and pairs % steps == 0
        )
        if not fits:
            raise ValueError(
                "the parts of an anchor batch do not fit: "
                + ", ".join(f"{name} {list(value.shape)}" for name, value in vars(self).items())
                + "."
            )

    @property
    def pairs(self) -> int:
        """P, the number of samples."""
        return int(self.predecessors.shape[0])

    @property
    def is_zero_variance(self) -> bool:
        """True when the advantages are all zero, so that the surrogate has nothing to say."""
        return not bool((self.advantages != 0).any())

    def step_of(self, pair: int) -> int:
        """Which of the K trained steps a pair belongs to."""
        return pair // (self.pairs // int(self.candidates.shape[0]))

    def chunks(self, size: int | None) -> list[slice]:
        """The pairs in batches of at most `size`; None = all at once."""
        size = size or self.pairs
        return [slice(start, min(start + size, self.pairs)) for start in range(0, self.pairs, size)]


def anchor_batch(
    group: TrajectoryGroup,
    valid: NDArray[np.bool_],
    advantages: Tensor,
    edit_mask: Tensor,
    preservation_mask: Tensor,
    source: Tensor,
) -> AnchorBatch:
    """The anchors of a group, on the device of `source`.

    An anchor needs no valid score: it is where the gradient is taken, not what is judged.

    Args:
        group: as it came from the rollout.
        valid: bool [G], the candidates to compare the anchors with.
        advantages: [G].
        edit_mask: [N], 1 = editable.
        preservation_mask: [N], 1 = editable.
        source: float32 [N, C].
    """
    device, steps, anchors = source.device, len(group.trained_steps), len(group.anchors)
    candidates = torch.tensor(group.candidates, device=device)
    chosen = torch.tensor(valid, device=device)
    sigmas = torch.tensor(group.sigmas, device=device)
    at = torch.tensor(group.trained_steps, device=device).repeat_interleave(anchors)
    flat = (steps * anchors, *candidates.shape[2:])
    return AnchorBatch(
        predecessors=torch.tensor(group.predecessors, device=device).reshape(flat),
        sigma=sigmas[at],
        sigma_next=sigmas[at + 1],
        stored=candidates[:, torch.tensor(group.anchors, device=device)].reshape(flat),
        candidates=candidates[:, chosen],
        advantages=advantages.to(device, torch.float32)[chosen],
        edit_mask=edit_mask.to(device, torch.float32),
        preservation_mask=preservation_mask.to(device, torch.float32),
        source=source,
    )


@torch.no_grad()
def leaps(velocity: Velocity, batch: AnchorBatch, micro_batch: int | None) -> Tensor:
    """The anchor states [P, N, C] under the weights of `velocity`, without gradient, in the batches of training."""
    return torch.cat(
        [
            leap(velocity, batch.predecessors[rows], batch.sigma[rows], batch.sigma_next[rows])
            for rows in batch.chunks(micro_batch)
        ]
    )


@torch.no_grad()
def relative_distance(leaped: Tensor, others: Tensor, batch: AnchorBatch, pairs: Sequence[int]) -> float:
    """Largest distance of a pair's two next states, relative to its step: |leaped - other| / |stored - predecessor|.

    Against the stored states it is zero up to rounding when the rollout's Euler step and the prediction used the same
    weights, conditions, code and grid. Relative to the displacement, that is, to the velocity: relative to the state it
    would hide a wrong velocity behind a short step.

    Args:
        leaped: [P, N, C].
        others: [P, N, C].
        batch: what both were taken from.
        pairs: those to look at, at least one, in 0..P-1.
    """
    chosen = list(pairs)
    distance = torch.linalg.vector_norm((leaped[chosen] - others[chosen]).flatten(1), dim=1)
    displacement = torch.linalg.vector_norm((batch.stored[chosen] - batch.predecessors[chosen]).flatten(1), dim=1)
    return float((distance / displacement.clamp(min=torch.finfo(torch.float32).tiny)).max())
