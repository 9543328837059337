"""Tests of learner.algorithms.rc_grpo in the loss of a group, against closed forms and plain loops in float64."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from configs.algorithms import RcGrpoConfig
from configs.method_families import AdvantageConfig
from learner.algorithms.anchors import AnchorQueries
from learner.algorithms.preservation import UNEDITED
from learner.algorithms.rc_grpo import RcGrpo
from learner.algorithms.region_credit import shared_credit
from learner.update.credit import credited
from learner.update.group_loss import GroupLoss
from rewards.compose import GroupReward

STEPS, ANCHORS, CANDIDATES, TOKENS, CHANNELS = 2, 3, 5, 7, 4
PAIRS = STEPS * ANCHORS


class Toy(nn.Module):
    """A velocity with parameters, in float64."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.mix = nn.Parameter(0.5 * torch.randn(CHANNELS, CHANNELS, generator=generator, dtype=torch.float64))
        self.calls = 0

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(x @ self.mix) * (1 + sigma[:, None, None])


@pytest.fixture
def toy() -> Toy:
    return Toy()


@dataclass(frozen=True)
class Batch:
    """Everything that the loss of a group is made from; see `AnchorQueries` and `GroupLoss`."""

    predecessors: Tensor
    sigma: Tensor
    sigma_next: Tensor
    stored: Tensor
    candidates: Tensor
    advantages: Tensor
    edit_mask: Tensor
    preservation_mask: Tensor
    source: Tensor

    @property
    def queries(self) -> AnchorQueries:
        return AnchorQueries(
            self.predecessors,
            self.sigma,
            self.sigma_next,
            self.candidates,
            self.advantages,
            self.edit_mask,
            shared_credit(self.advantages, self.edit_mask),
        )

    def loss(self, toy, config, micro_batch=None, base=None) -> GroupLoss:
        return GroupLoss(
            RcGrpo(config),
            config,
            self.queries,
            not bool(self.advantages.any()),
            self.source,
            self.preservation_mask,
            toy,
            base or no_base,
            micro_batch,
        )

    def velocities_to(self, states: Tensor) -> Tensor:
        """Those whose Euler steps lead to some next states."""
        return (states - self.predecessors) / (self.sigma_next - self.sigma)[:, None, None]


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    advantages = normal(CANDIDATES)
    candidates = normal(STEPS, CANDIDATES, TOKENS, CHANNELS)
    return Batch(
        predecessors=normal(PAIRS, TOKENS, CHANNELS),
        sigma=torch.tensor([0.9] * ANCHORS + [0.7] * ANCHORS, dtype=torch.float64),
        sigma_next=torch.tensor([0.7] * ANCHORS + [0.4] * ANCHORS, dtype=torch.float64),
        stored=candidates[:, 1 : 1 + ANCHORS].reshape(PAIRS, TOKENS, CHANNELS),
        candidates=candidates,
        advantages=advantages - advantages.mean(),
        edit_mask=torch.tensor([1, 1, 0, 0, 1, 0, 0], dtype=torch.float64),
        preservation_mask=torch.tensor([1, 1, 0, 1, 1, 0, 0], dtype=torch.float64),
        source=normal(TOKENS, CHANNELS),
    )


def settings(background=0.0, velocity=0.0, kl=0.0, clip=1e-3, **preservation) -> RcGrpoConfig:
    return RcGrpoConfig(
        preservation={"background_weight": background, "velocity_weight": velocity, **preservation},
        kl_weight=kl,
        clip=clip,
    )


def advantages_of(reward: GroupReward, config: AdvantageConfig) -> Tensor:
    (credit,) = credited([reward], config)
    return credit.advantages


def no_base(x, sigma):
    raise AssertionError("the base is not asked for")


def run(batch, toy, config, old=None, micro_batch=None, scale=1.0, base=no_base, unit=1.0):
    toy.zero_grad()
    given = None if old is None else batch.velocities_to(old)
    stats, velocities = batch.loss(toy, config, micro_batch, base).accumulate(given, scale, unit)
    leaped = None if velocities is None else leaps_of(batch, velocities)
    return stats, leaped, None if toy.mix.grad is None else toy.mix.grad.clone()


def weights_by_loops(mask: Tensor) -> list[float]:
    """W of every token (taus 0.9 and 1.1, squared)."""
    inside = sum(mask.tolist())
    return [
        1 / (CHANNELS * inside * 0.81) if m == 1 else 1 / (CHANNELS * (TOKENS - inside) * 1.21) for m in mask.tolist()
    ]


def leaps_of(batch: Batch, v: Tensor) -> Tensor:
    return batch.predecessors + (batch.sigma_next - batch.sigma)[:, None, None] * v


def surrogate_by_loops(batch: Batch, anchors: Tensor, old: Tensor, clip: float) -> tuple[Tensor, Tensor, float]:
    """(-J, KL, clipped fraction), means over pairs, term by term."""

    def number(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64)

    w = weights_by_loops(batch.edit_mask)
    j, kl, cut = number(0), number(0), 0

    def probabilities(state: Tensor, candidates: Tensor) -> list[Tensor]:
        d = [sum(w[u] * (c[u] - state[u]).square().sum() for u in range(TOKENS)) for c in candidates]
        e = [torch.exp(-0.5 * value) for value in d]
        return [value / sum(e) for value in e]

    for p in range(PAIRS):
        candidates = batch.candidates[p // ANCHORS]
        new = probabilities(anchors[p], candidates)
        before = probabilities(old[p].detach(), candidates)
        for a, pi, pi_old in zip(batch.advantages, new, before, strict=True):
            rho = pi / pi_old
            bounded = a * min(max(rho, number(1 - clip)), number(1 + clip))
            cut += int(bounded < a * rho)
            j = j + min(a * rho, bounded)
            kl = kl + pi_old * torch.log(pi_old / pi)
    return -j / PAIRS, kl / PAIRS, cut / (PAIRS * CANDIDATES)


def test_the_gradient_at_the_old_weights_is_the_weighted_advantage_sum_of_the_candidates(batch, toy):
    stats, _, gradient = run(batch, toy, settings())
    w = torch.tensor(weights_by_loops(batch.edit_mask), dtype=torch.float64)[:, None]
    cotangent = torch.empty_like(batch.predecessors)
    for p in range(PAIRS):
        pulled = w * sum(a * x for a, x in zip(batch.advantages, batch.candidates[p // ANCHORS], strict=True))
        # d(-J) / d anchor = -W * sum_i A_i x_i / (B K), pushed through the leap.
        cotangent[p] = (batch.sigma_next - batch.sigma)[p] * -pulled / PAIRS
    v = toy(batch.predecessors, batch.sigma)
    (expected,) = torch.autograd.grad(v, toy.mix, cotangent)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=0)
    assert stats.terms["surrogate"].gradient == pytest.approx(cotangent.norm().item(), rel=1e-10)
    assert (stats.ratio_deviation, stats.clipped_fraction) == (0.0, 0.0)


@pytest.mark.parametrize("clip", [1e-3, 0.02, 0.9])
@pytest.mark.parametrize("shift", [0.0, 0.02, 0.3])
def test_off_policy_terms_equal_plain_loops(batch, toy, clip, shift):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        old = leaps_of(batch, toy(batch.predecessors, batch.sigma))
        old = old + shift * torch.randn(old.shape, generator=generator, dtype=torch.float64)
    kl_weight, background, velocity = 0.7, 0.3, 0.2
    stats, leaped, gradient = run(
        batch, toy, settings(background, velocity, kl_weight, clip), old, base=lambda x, sigma: 0.1 * x
    )

    v = toy(batch.predecessors, batch.sigma)
    anchors = leaps_of(batch, v)
    minus_j, kl, cut = surrogate_by_loops(batch, anchors, old, clip)
    clean = batch.predecessors - batch.sigma[:, None, None] * v
    outside = batch.preservation_mask == 0
    held = (clean - batch.source).square()[:, outside].mean()
    near = (v - 0.1 * batch.predecessors).square().mean()
    loss = minus_j + kl_weight * kl + background * held + velocity * near
    (expected,) = torch.autograd.grad(loss, toy.mix)

    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(leaped, anchors.detach())
    got = {name: term.value for name, term in stats.terms.items()}
    assert got == pytest.approx(
        {"surrogate": minus_j.item(), "kl": kl.item(), "background": held.item(), "velocity_anchor": near.item()},
        rel=1e-8,
        abs=1e-9,
    )
    assert stats.loss == pytest.approx(loss.item(), rel=1e-8)
    assert stats.clipped_fraction == pytest.approx(cut, abs=1e-9)
    if shift == 0.3 and clip == 1e-3:
        assert stats.clipped_fraction > 0.1 and stats.ratio_deviation > 1e-2


@pytest.mark.parametrize("error", ["estimate", "velocity"])
def test_the_background_error_is_that_of_the_estimate_or_of_the_velocity(batch, toy, error):
    config = settings(0.3, background_error=error)
    stats, _, gradient = run(batch, toy, config)
    v, sigma = toy(batch.predecessors, batch.sigma), batch.sigma[:, None, None]
    # Distance from the velocity that leads straight to the source; times sigma, that of the estimate.
    wrong = v - (batch.predecessors - batch.source) / sigma
    outside = 1 - batch.preservation_mask[:, None]
    square = (wrong if error == "velocity" else wrong * sigma).square()
    held = (square * outside).sum() / (PAIRS * outside.sum() * CHANNELS)
    assert stats.terms["background"].value == pytest.approx(held.item(), rel=1e-10)
    _, _, alone = run(batch, toy, settings())
    (pulled,) = torch.autograd.grad(0.3 * held, toy.mix)
    torch.testing.assert_close(gradient, alone + pulled, rtol=1e-9, atol=1e-12)
    scale = 1 if error == "velocity" else sigma.square()
    by_hand = (2 * scale * wrong * outside / (PAIRS * outside.sum() * CHANNELS)).norm().item()
    assert batch.loss(toy, config).bare_norms()[1] == pytest.approx(by_hand, rel=1e-10), "and so is its unit"


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 6])
def test_micro_batches_give_the_same_gradient_and_numbers(batch, toy, micro_batch):
    generator = torch.Generator().manual_seed(3)
    old = batch.stored + 0.1 * torch.randn(batch.stored.shape, generator=generator, dtype=torch.float64)
    config = settings(0.3, 0.2, 0.7, background_tolerance=0.4)

    def base(x, sigma):
        return 0.1 * x

    whole, leaped, gradient = run(batch, toy, config, old, base=base)
    parts, leaped_in_parts, in_parts = run(batch, toy, config, old, micro_batch, base=base)
    torch.testing.assert_close(in_parts, gradient, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(leaped_in_parts, leaped, rtol=1e-12, atol=1e-14)
    for name, term in whole.terms.items():
        assert vars(parts.terms[name]) == pytest.approx(vars(term), rel=1e-12)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)
    assert parts.clipped_fraction == pytest.approx(whole.clipped_fraction)
    assert parts.ratio_deviation == pytest.approx(whole.ratio_deviation)


def test_scale_and_repetition_add_up(batch, toy):
    _, _, once = run(batch, toy, settings(0.3))
    toy.zero_grad()
    for _ in range(4):
        batch.loss(toy, settings(0.3)).accumulate(None, 0.25, 1.0)
    torch.testing.assert_close(toy.mix.grad, once, rtol=1e-12, atol=0)


def test_a_flat_group_without_preservation_costs_no_forward(batch, toy):
    stats, leaped, gradient = run(replace(batch, advantages=torch.zeros(CANDIDATES)), toy, settings())
    assert leaped is None and gradient is None and toy.calls == 0 and stats.terms == {} and stats.loss == 0


def test_a_flat_group_keeps_its_preservation_terms(batch, toy):
    flat = replace(batch, advantages=torch.zeros(CANDIDATES, dtype=torch.float64))
    stats, leaped, gradient = run(flat, toy, settings(0.3, kl=0.5))
    assert list(stats.terms) == ["background"] and leaped is not None
    v = toy(batch.predecessors, batch.sigma)
    clean = batch.predecessors - batch.sigma[:, None, None] * v
    term = 0.3 * (clean - batch.source).square()[:, batch.preservation_mask == 0].mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(term, toy.mix)[0])
    assert stats.loss == pytest.approx(term.item())


def test_a_full_mask_leaves_nothing_to_preserve(batch, toy):
    full = replace(
        batch,
        edit_mask=torch.ones(TOKENS, dtype=torch.float64),
        preservation_mask=torch.ones(TOKENS, dtype=torch.float64),
    )
    stats, _, gradient = run(full, toy, settings(0.3))
    _, _, alone = run(full, toy, settings())
    assert vars(stats.terms["background"]) == {"value": 0.0, "gradient": 0.0}
    torch.testing.assert_close(gradient, alone, rtol=1e-12, atol=0)


def test_the_hinge_silences_small_deviations(batch, toy):
    stats, _, _ = run(batch, toy, settings(0.3, background_tolerance=1e6))
    assert vars(stats.terms["background"]) == {"value": 0.0, "gradient": 0.0}


def test_a_ratio_that_is_not_a_number_is_not_lost(batch, toy):
    old = batch.stored.clone()
    old[1] = math.nan
    stats, _, _ = run(batch, toy, settings(), old, micro_batch=1)
    assert math.isnan(stats.ratio_deviation)


def test_advantages_follow_the_valid_rewards():
    reward = GroupReward(np.array([1.0, 9.0, 3.0]), np.array([True, False, True]))
    assert advantages_of(reward, AdvantageConfig()).tolist() == [-1.0, 0.0, 1.0]
    flat = GroupReward(np.array([2.0, 9.0, 2.0]), np.array([True, False, True]))
    assert advantages_of(flat, AdvantageConfig()).tolist() == [0.0, 0.0, 0.0]
    filtered = replace(reward, filter="std")
    assert advantages_of(filtered, AdvantageConfig()).tolist() == [0.0, 0.0, 0.0]
    quasi = advantages_of(reward, AdvantageConfig(kind="quasi_norm", p=0.5))
    # (|-1|^.5 + |1|^.5)^2 = 4, divided by sqrt(2)
    assert quasi.tolist() == pytest.approx([-1 / (4 / 2**0.5), 0, 1 / (4 / 2**0.5)])


def test_a_surrogate_of_weight_zero_leaves_the_preservation_terms_alone(batch, toy):
    config = settings(0.3, 4.0, 0.7, velocity_region="edit")
    config = config.model_copy(update={"weight": 0.0})
    stats, leaped, gradient = run(batch, toy, config, base=lambda x, sigma: 0.1 * x)
    v = toy(batch.predecessors, batch.sigma)
    clean = batch.predecessors - batch.sigma[:, None, None] * v
    inside = batch.preservation_mask == 1
    held = (clean - batch.source).square()[:, ~inside].mean()
    near = (v - 0.1 * batch.predecessors).square()[:, inside].mean()
    (expected,) = torch.autograd.grad(0.3 * held + 4.0 * near, toy.mix)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)
    assert set(stats.terms) == {"background", "velocity_anchor"} and leaped is not None


def test_the_undone_edit_is_one_more_term(batch, toy):
    config = settings(0.3, 4.0, undone_weight=20.0, velocity_region="edit")
    config = config.model_copy(update={"weight": 0.0})
    stats, _, gradient = run(batch, toy, config, base=lambda x, sigma: 0.1 * x, unit=2.0)
    sigma = batch.sigma[:, None, None]
    v, base = toy(batch.predecessors, batch.sigma), 0.1 * batch.predecessors
    inside = batch.preservation_mask == 1
    held = (batch.predecessors - sigma * v - batch.source).square()[:, ~inside].mean()
    near = (v - base).square()[:, inside].mean()
    back = (batch.source - (batch.predecessors - sigma * base))[:, inside]
    moved = (-(sigma * (v - base))[:, inside] * back).sum((1, 2))
    share = moved / (back.square() + UNEDITED).sum((1, 2))
    (expected,) = torch.autograd.grad(2.0 * (0.3 * held + 4.0 * near + 20.0 * share.square().mean()), toy.mix)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-14)
    assert stats.terms["undone_edit"].value == pytest.approx(share.square().mean().item())


def test_the_weight_of_the_surrogate_scales_its_gradient(batch, toy):
    config = settings()
    half = config.model_copy(update={"weight": 0.5})
    torch.testing.assert_close(2 * run(batch, toy, half)[2], run(batch, toy, config)[2], rtol=1e-12, atol=0)


@pytest.mark.parametrize("micro_batch", [None, 1, 4])
def test_bare_norms_are_those_of_both_terms_at_weight_one(batch, toy, micro_batch):
    v = toy(batch.predecessors, batch.sigma).detach().requires_grad_()
    clean = batch.predecessors - batch.sigma[:, None, None] * v
    held = (clean - batch.source).square().mean(-1)[:, batch.preservation_mask == 0].mean()
    anchors, weights = leaps_of(batch, v), torch.tensor(weights_by_loops(batch.edit_mask), dtype=v.dtype)
    objective = 0.0
    for pair in range(PAIRS):
        distances = ((batch.candidates[pair // ANCHORS] - anchors[pair]).square().sum(-1) * weights).sum(-1)
        log_pi = torch.log_softmax(-0.5 * distances, dim=0)
        objective = objective + (batch.advantages * torch.exp(log_pi - log_pi.detach())).sum() / PAIRS
    expected = [float(torch.autograd.grad(term, v, retain_graph=True)[0].norm()) for term in (objective, held)]
    # Whatever the weights are.
    found = batch.loss(toy, settings(0.3, 4.0), micro_batch).bare_norms()
    assert found == pytest.approx((*expected, 1.0), rel=1e-9)
    assert toy.mix.grad is None


def test_groups_that_tell_nothing_are_not_counted(batch, toy):
    for silent in (
        replace(batch, advantages=torch.zeros(CANDIDATES)),
        replace(batch, preservation_mask=torch.ones(TOKENS)),
    ):
        assert silent.loss(toy, settings(0.3)).bare_norms() == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("share", "counted"), [(1e-9, False), (0.99e-3, False), (1.01e-3, True), (0.4, True)])
def test_a_group_whose_background_hardly_pulls_is_not_counted(batch, toy, share, counted):
    surrogate, background, _ = batch.loss(toy, settings(0.3)).bare_norms()
    weak = replace(batch, advantages=batch.advantages * background / (share * surrogate))  # the surrogate is linear
    expected = (pytest.approx(background / share), background, 1.0) if counted else (0.0, 0.0, 0.0)
    assert weak.loss(toy, settings(0.3)).bare_norms() == expected


def test_the_unit_scales_the_preservation_terms_and_nothing_else(batch, toy):
    base = lambda x, sigma: 0.1 * x  # noqa: E731
    at_weight = run(batch, toy, settings(0.6, 8.0), base=base)
    at_unit = run(batch, toy, settings(0.3, 4.0), base=base, unit=2.0)
    torch.testing.assert_close(at_unit[2], at_weight[2], rtol=1e-12, atol=0)
    assert at_unit[0] == at_weight[0]
    assert set(run(batch, toy, settings(0.3, 4.0), base=base, unit=0.0)[0].terms) == {"surrogate"}


def test_damping_makes_groups_of_little_spread_count_less():
    small, large = (
        advantages_of(GroupReward(np.array([0.0, spread]), np.array([True, True])), AdvantageConfig(damping=0.01))
        for spread in (0.002, 2.0)
    )
    assert small.tolist() == pytest.approx([-1 / 11, 1 / 11]) and large.tolist() == pytest.approx([-1, 1], rel=0.02)
