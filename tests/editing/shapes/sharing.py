"""What the processes of a test run: light, since each imports it anew."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from editing.shapes.pretrain.errors import RecipeError
from editing.shapes.pretrain.parallel import average_gradients, share

SAMPLES = torch.linspace(-1, 2, 7, dtype=torch.float64)


def mean_of_shares() -> None:
    """Asserts in every process that gradient and loss over unequal shares are those of the whole batch."""
    rank, world = dist.get_rank(), dist.get_world_size()
    own = share(len(SAMPLES), world, rank)
    weights = [nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (0.3, 0.0)]
    loss = (weights[0] * SAMPLES[list(own)]).square().mean()
    loss.backward()
    mean = average_gradients(weights, loss, len(own) / len(SAMPLES))
    assert abs(mean - (0.3 * SAMPLES).square().mean()) < 1e-12
    assert abs(weights[0].grad - (0.6 * SAMPLES.square()).mean()) < 1e-12
    assert weights[1].grad == 0


def refuse() -> None:
    """What a process does that cannot go on."""
    raise RecipeError("a sentence")
