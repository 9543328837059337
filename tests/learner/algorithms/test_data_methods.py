"""Methods that learn from given images: levels, pairs, and the gradients of both in closed form, in float64."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.data_methods import DpoConfig, SftConfig
from learner.algorithms.base import SIGNAL, GroupTensors, Velocities
from learner.algorithms.data_queries import data_queries, levels
from learner.algorithms.registry import open_algorithm

TOKENS, CHANNELS = 6, 3
SIGMAS = torch.tensor([1.0, 0.75, 0.4, 0.0], dtype=torch.float64)
MASKS = {
    "half": [1, 1, 0, 0, 1, 0],
    "soft": [0.3, 1, 0, 0.5, 0, 0],
    "one": [0, 0, 0, 0, 0, 1],
    "full": [1] * 6,
    "empty": [0] * 6,
}


def latents(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def group_of(images: int, mask: str = "half", seed: int = 7) -> GroupTensors:
    return GroupTensors(
        steps=(2,),
        sigmas=SIGMAS,
        candidates=latents(1, images, TOKENS, CHANNELS, seed=0),
        predecessors=torch.empty(1, 0, TOKENS, CHANNELS, dtype=torch.float64),
        anchors=(),
        valid=torch.ones(images, dtype=torch.bool),
        advantages=torch.ones(images, dtype=torch.float64),
        edit_mask=torch.tensor(MASKS[mask], dtype=torch.float64),
        source=latents(TOKENS, CHANNELS, seed=1),
        grid=(2, 3),
        seed=seed,
    )


def value_and_gradient(config, group, velocity: Tensor, reference: Tensor | None, rows: slice | None = None):
    """The term of some queries of a group, and its gradient there."""
    method = open_algorithm(config)
    queries = method.queries(group)
    rows = rows or slice(0, queries.count)
    v = velocity[rows].clone().requires_grad_()

    def ask(asked: slice) -> Tensor:
        assert reference is not None, "no term asks for the base"
        return reference[asked]

    term = method.terms(queries, Velocities(rows, v, None, ask))[SIGNAL]
    assert term.ratio is None and term.weight == config.weight
    return term.value.item(), torch.autograd.grad(term.value, v)[0]


@pytest.mark.parametrize("edit_weight", [1.0, 4.0])
@pytest.mark.parametrize("mask", MASKS)
def test_fine_tuning_pulls_every_velocity_to_its_own_noise_less_the_target(mask, edit_weight):
    config, group = SftConfig(samples=3, edit_weight=edit_weight), group_of(1, mask)
    queries = open_algorithm(config).queries(group)
    v = latents(3, TOKENS, CHANNELS, seed=2)
    value, gradient = value_and_gradient(config, group, v, None)
    weights = [edit_weight * m + (1 - m) for m in MASKS[mask]]
    wanted, loss, x0 = torch.zeros_like(v), 0.0, group.candidates[0, 0]
    for row in range(3):
        sigma = float(queries.sigma[row])
        noise = (queries.x[row] - (1 - sigma) * x0) / sigma  # from the query itself
        for u in range(TOKENS):
            error = v[row, u] - (noise[u] - x0[u])
            loss += weights[u] * float(error.square().mean()) / sum(weights) / 3
            wanted[row, u] = 2 * weights[u] * error / (CHANNELS * sum(weights)) / 3
    assert value == pytest.approx(loss, rel=1e-9)
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)


def test_dpo_at_the_base_pulls_to_the_better_image_and_away_from_the_other():
    """+- 2 (v - (noise - x0)) / (N C), over the pairs; neither beta nor the mask plays a part."""
    config, group = DpoConfig(samples=3, beta=10.0), group_of(2)
    queries, v = open_algorithm(config).queries(group), latents(6, TOKENS, CHANNELS, seed=2)
    value, gradient = value_and_gradient(config, group, v, v)
    assert value == pytest.approx(0.4 * np.log(2))
    for row in range(6):
        better = row % 2 == 0
        x0, sigma = group.candidates[0, 0 if better else 1], float(queries.sigma[row])
        noise = (queries.x[row] - (1 - sigma) * x0) / sigma
        away = 2 * (v[row] - (noise - x0)) / (TOKENS * CHANNELS) / 3
        torch.testing.assert_close(gradient[row], away if better else -away, rtol=1e-9, atol=1e-12)
    for mask in ("full", "empty"):
        assert torch.equal(value_and_gradient(config, group_of(2, mask), v, v)[1], gradient)
    other = DpoConfig(samples=3, beta=2000.0)
    torch.testing.assert_close(value_and_gradient(other, group, v, v)[1], gradient)


def test_dpo_pulls_less_at_what_it_has_already_learnt():
    config, group = DpoConfig(samples=1, beta=10.0), group_of(2)
    queries, base = open_algorithm(config).queries(group), latents(2, TOKENS, CHANNELS, seed=2)
    target = queries.noise - queries.x0

    def pull(share: float) -> float:
        """Where the velocity of the better image has gone that part of the way, and that of the other back."""
        v = base + torch.tensor([share, -share]).view(2, 1, 1).double() * (target - base)
        toward = v - target
        return float((value_and_gradient(config, group, v, base)[1] / toward).abs().max())

    assert pull(0.0) > pull(0.1) > pull(0.3) > 0


def test_images_of_a_pair_share_noise_and_level_and_stay_together_in_any_batch():
    group, config = group_of(2), DpoConfig(samples=3, beta=10.0)
    queries = data_queries(group, 3)
    for k in range(3):
        assert queries.sigma[2 * k] == queries.sigma[2 * k + 1]
        assert torch.equal(queries.noise[2 * k], queries.noise[2 * k + 1])
    assert len({float(one) for one in queries.sigma}) == 3 and not torch.equal(queries.noise[0], queries.noise[2])
    assert queries.chunks(None) == [slice(0, 6)] and queries.chunks(5) == queries.chunks(4) == [
        slice(0, 4),
        slice(4, 6),
    ]
    assert queries.chunks(3) == queries.chunks(2) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    v, base = latents(6, TOKENS, CHANNELS, seed=2), latents(6, TOKENS, CHANNELS, seed=3)
    value, gradient = value_and_gradient(config, group, v, base)
    parts = [value_and_gradient(config, group, v, base, rows) for rows in queries.chunks(2)]
    assert value == pytest.approx(sum(part for part, _ in parts) / 3)
    torch.testing.assert_close(gradient, torch.cat([part for _, part in parts]) / 3)


def test_a_pair_of_equal_images_pulls_nowhere():
    group, v = group_of(2), latents(4, TOKENS, CHANNELS, seed=2)
    group.candidates[0, 1] = group.candidates[0, 0]
    v[1::2] = v[0::2]  # the same query has the same velocity
    _, gradient = value_and_gradient(DpoConfig(), group, v, v)
    torch.testing.assert_close(gradient[0::2], -gradient[1::2])


@pytest.mark.parametrize("samples", [1, 2, 4, 7])
def test_levels_fill_the_grid_evenly_by_its_steps(samples):
    grid = SIGMAS.numpy()
    drawn = np.stack([levels(grid, seed, samples) for seed in range(2000)])
    assert drawn.shape == (2000, samples) and (drawn > 0).all() and (drawn <= 1).all()
    assert (np.diff(drawn, axis=1) < 0).all(), "one in each part, falling"
    share = [np.mean((drawn <= high) & (drawn > low)) for high, low in pairwise(grid)]
    assert share == pytest.approx([1 / 3] * 3, abs=0.03), "a step of the sampler has as many levels as any other"
    inside = drawn[(drawn > 0.4) & (drawn <= 0.75)]
    assert np.mean(inside) == pytest.approx(0.575, abs=0.01)


def test_levels_and_noise_follow_from_the_seed_alone():
    one, again, other = (data_queries(group_of(2, seed=seed), 2) for seed in (7, 7, 8))
    assert torch.equal(one.x, again.x) and torch.equal(one.sigma, again.sigma)
    assert not torch.equal(one.noise, other.noise) and not torch.equal(one.sigma, other.sigma)
    assert max(Counter(levels(SIGMAS.numpy(), 7, 9).tolist()).values()) == 1
