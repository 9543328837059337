"""Tests of learner.algorithms.factored_surrogate against scalar loops in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithms.factored_surrogate import factored_log_policy, factored_objective
from learner.algorithms.surrogate import clipped_objective, log_policy, masked_distance


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(
    candidates=st.integers(1, 5),
    tokens=st.integers(1, 7),
    channels=st.integers(1, 3),
    kind=st.sampled_from(["hard", "soft", "empty", "full"]),
    seed=st.integers(0, 99),
)
def test_every_region_has_the_softmax_of_its_own_mean_distance(candidates, tokens, channels, kind, seed):
    x, y = drawn(candidates, tokens, channels, seed=seed), drawn(tokens, channels, seed=seed + 1)
    share = drawn(tokens, seed=seed + 2).sigmoid()
    mask = {"soft": share, "hard": (share > 0.5).double(), "empty": share * 0, "full": share * 0 + 1}[kind]
    regions, bandwidths = torch.stack([mask, 1 - mask]), torch.tensor([0.81, 1.21], dtype=torch.float64)
    got = factored_log_policy(x, y, regions, bandwidths)
    assert got.shape == (2, candidates)
    for r in range(2):
        count = max(channels * sum(regions[r].tolist()), 1)
        distances = [
            sum(
                regions[r, u].item() * (x[i, u, c] - y[u, c]).item() ** 2
                for u in range(tokens)
                for c in range(channels)
            )
            / count
            / bandwidths[r].item()
            for i in range(candidates)
        ]
        exponents = [math.exp(-0.5 * d) for d in distances]
        for i in range(candidates):
            assert got[r, i].item() == pytest.approx(math.log(exponents[i] / sum(exponents)), abs=1e-9)


@given(
    anchors=st.integers(1, 3),
    regions=st.integers(1, 3),
    candidates=st.integers(1, 5),
    spread=st.sampled_from([0.0, 1e-4, 0.5]),
    seed=st.integers(0, 99),
)
def test_the_objective_is_the_weighted_sum_of_clipped_ratios(anchors, regions, candidates, spread, seed):
    old = torch.log_softmax(drawn(anchors, regions, candidates, seed=seed), dim=-1)
    new = torch.log_softmax(old + spread * drawn(anchors, regions, candidates, seed=seed + 1), dim=-1)
    a, w = drawn(candidates, regions, seed=seed + 2), drawn(regions, seed=seed + 3).abs()
    w[0] = 0.0
    clip = 0.01
    got = factored_objective(new, old, a, w, clip)
    clipped = 0
    for k in range(anchors):
        total = 0.0
        for r in range(regions):
            for i in range(candidates):
                rho = math.exp((new[k, r, i] - old[k, r, i]).item())
                free, held = a[i, r].item() * rho, a[i, r].item() * min(max(rho, 1 - clip), 1 + clip)
                total += w[r].item() * min(free, held)
                clipped += w[r].item() > 0 and held < free
        assert got.objective[k].item() == pytest.approx(total, rel=1e-9, abs=1e-12)
    assert got.clipped_fraction.item() == pytest.approx(clipped / (anchors * regions * candidates))
    assert got.ratio_deviation.item() == pytest.approx((new - old).exp().sub(1).abs().max().item())


@pytest.mark.parametrize("mask", [[1, 1, 0, 0, 1], [0.3, 1, 0, 0.6, 0], [1] * 5, [0] * 5, [0, 0, 1, 0, 0]])
def test_with_one_advantage_for_both_regions_the_first_gradient_is_the_joint_ones(mask):
    x, a = drawn(4, 5, 3), torch.tensor([1.0, -0.25, -0.5, -0.25], dtype=torch.float64)
    mask = torch.tensor(mask, dtype=torch.float64)
    y = drawn(5, 3, seed=1).requires_grad_()
    taus = torch.tensor([0.9, 1.1], dtype=torch.float64) ** 2
    factored = factored_log_policy(x, y, torch.stack([mask, 1 - mask]), taus)[None]
    both, weights = a[:, None].expand(-1, 2), torch.ones(2, dtype=torch.float64)
    one = factored_objective(factored, factored.detach(), both, weights, 1e-3)
    joint = log_policy(masked_distance(x, y, mask, 0.9, 1.1, 2))[None]
    other = clipped_objective(joint, joint.detach(), a, 1e-3)
    assert one.ratio_deviation == other.ratio_deviation == 0
    torch.testing.assert_close(
        torch.autograd.grad(one.objective.sum(), y)[0], torch.autograd.grad(other.objective.sum(), y)[0]
    )


def test_a_region_is_clipped_by_itself():
    """The edit region has moved beyond the clip, the background has not: only its gradient goes on."""
    x, mask = drawn(3, 4, 2), torch.tensor([1.0, 1, 0, 0], dtype=torch.float64)
    regions, taus = torch.stack([mask, 1 - mask]), torch.ones(2, dtype=torch.float64)
    a = torch.tensor([[1.0, 1.0], [0.0, 0.0], [-1.0, -1.0]], dtype=torch.float64)
    start = x[1].clone()
    old = factored_log_policy(x, start, regions, taus)[None]
    y = (start + mask[:, None] * 0.5 * (x[0] - x[2])).requires_grad_()
    new = factored_log_policy(x, y, regions, taus)[None]
    got = factored_objective(new, old, a, torch.ones(2, dtype=torch.float64), 1e-3)
    (gradient,) = torch.autograd.grad(got.objective.sum(), y)
    assert not gradient[:2].any() and gradient[2:].abs().sum() > 0
    assert 0 < got.clipped_fraction <= 2 / 6


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update(weights=torch.tensor([1.0, -1.0])), "weights of regions must be finite and at least 0"),
        (lambda d: d.update(advantages=torch.zeros(2, 3)), r"advantages \[V, R\]"),
        (lambda d: d.update(clip=1.5), "clip must be in"),
    ],
)
def test_what_does_not_fit_is_told(change, sentence):
    logs = torch.log_softmax(torch.zeros(1, 2, 3), dim=-1)
    given = {
        "log_new": logs,
        "log_old": logs,
        "advantages": torch.zeros(3, 2),
        "weights": torch.ones(2),
        "clip": 0.1,
    }
    change(given)
    with pytest.raises(ValueError, match=sentence):
        factored_objective(**given)


def test_bandwidths_and_shapes_are_checked():
    x, y, regions = torch.zeros(2, 3, 1), torch.zeros(3, 1), torch.ones(1, 3)
    with pytest.raises(ValueError, match="bandwidths must be above 0"):
        factored_log_policy(x, y, regions, torch.zeros(1))
    with pytest.raises(ValueError, match=r"anchor \[N, C\]"):
        factored_log_policy(x, y[:2], regions, torch.ones(1))
