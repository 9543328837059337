import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing.flow import leap
from editing.noise import region_decoupled_noise
from learner.algorithms.credit import group_advantages
from learner.algorithms.surrogate import (
    categorical_kl,
    clipped_objective,
    log_policy,
    masked_distance,
    policy_ratio,
    region_weights,
)

sizes = {"group": st.integers(2, 5), "anchors": st.integers(1, 3), "tokens": st.integers(1, 6)}
MASKS = ("ragged", "one token", "all tokens", "no token", "soft")


def make_mask(kind: str, tokens: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    if kind == "one token":
        return (torch.arange(tokens) == tokens // 2).float()
    if kind == "all tokens":
        return torch.ones(tokens)
    if kind == "no token":
        return torch.zeros(tokens)
    values = torch.rand(tokens, generator=g)
    return values if kind == "soft" else (values < 0.4).float()


def latents(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def distance_by_loops(x, y, mask, tau_edit, tau_base, power):
    """Eq. B.1-B.3 on plain numbers; x, y [N, C]."""
    tokens, channels = x.shape
    edit = base = edit_count = base_count = 0.0
    for u in range(tokens):
        m = float(mask[u])
        edit_count += channels * m
        base_count += channels * (1 - m)
        for c in range(channels):
            q = (float(x[u, c]) - float(y[u, c])) ** 2
            edit += m * q
            base += (1 - m) * q
    return edit / max(edit_count, 1) / tau_edit**power + base / max(base_count, 1) / tau_base**power


@given(
    **sizes,
    channels=st.integers(1, 4),
    kind=st.sampled_from(MASKS),
    taus=st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
    power=st.sampled_from([1, 2]),
    seed=st.integers(0, 999),
)
def test_distance_equals_the_formula_written_as_loops(group, anchors, tokens, channels, kind, taus, power, seed):
    candidates = latents(group, tokens, channels, seed=seed, dtype=torch.float32)
    anchor = latents(anchors, tokens, channels, seed=seed + 1, dtype=torch.float32)
    mask = make_mask(kind, tokens, seed)
    got = masked_distance(candidates, anchor, mask, *taus, power)
    assert got.shape == (anchors, group) and got.dtype == torch.float32
    for k in range(anchors):
        assert torch.equal(masked_distance(candidates, anchor[k], mask, *taus, power), got[k])
        for i in range(group):
            want = distance_by_loops(candidates[i], anchor[k], mask, *taus, power)
            assert got[k, i].item() == pytest.approx(want, rel=2e-5, abs=1e-7)


def test_default_bandwidths_are_the_papers():
    x, y, mask = latents(1, 4, 2), latents(4, 2, seed=1), make_mask("ragged", 4, seed=1)
    assert 0 < mask.sum() < 4
    want = distance_by_loops(x[0], y, mask, 0.9, 1.1, 2)
    assert masked_distance(x, y, mask).item() == pytest.approx(want, rel=1e-12)


@given(tokens=st.integers(1, 8), channels=st.integers(1, 4), kind=st.sampled_from(MASKS), seed=st.integers(0, 99))
def test_region_weights_are_the_weights_of_the_distance(tokens, channels, kind, seed):
    mask = make_mask(kind, tokens, seed).double()
    weights = region_weights(mask, channels, 0.9, 1.1)
    x, y = latents(2, tokens, channels, seed=seed), latents(tokens, channels, seed=seed + 1)
    by_weights = ((x - y).square() * weights[:, None]).sum(dim=(1, 2))
    torch.testing.assert_close(masked_distance(x, y, mask), by_weights, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("kind", "tau"), [("all tokens", 0.9), ("no token", 1.1)])
def test_the_term_of_an_empty_region_is_dropped(kind, tau):
    weights = region_weights(make_mask(kind, 7).double(), 3, 0.9, 1.1)
    torch.testing.assert_close(weights, torch.full((7,), 1 / (21 * tau**2), dtype=torch.float64))


def test_own_candidate_is_at_distance_exactly_zero_and_near_ones_keep_their_digits():
    candidates = 100 + latents(3, 50, 8, dtype=torch.float32)
    mask = make_mask("ragged", 50)
    assert masked_distance(candidates, candidates[1], mask)[1].item() == 0.0
    near = candidates[1] + 2.0**-10  # exactly representable next to 100
    want = distance_by_loops(candidates[1].double(), near.double(), mask, 0.9, 1.1, 2)
    assert masked_distance(candidates, near, mask)[1].item() == pytest.approx(want, rel=1e-4)


def test_half_precision_inputs_are_reduced_in_float32():
    candidates, anchor = latents(3, 40, 8).bfloat16(), latents(2, 40, 8, seed=1).bfloat16()
    mask = make_mask("ragged", 40)
    got = masked_distance(candidates, anchor, mask)
    assert got.dtype == torch.float32
    torch.testing.assert_close(
        got.double(), masked_distance(candidates.double(), anchor.double(), mask.double()), rtol=1e-5, atol=0
    )


@given(st.integers(1, 4), st.integers(2, 6), st.floats(1e-6, 1e6), st.integers(0, 99))
def test_policy_sums_to_one_and_is_the_softmax_of_minus_half_the_distance(anchors, group, scale, seed):
    distance = scale * latents(anchors, group, seed=seed).square()
    log_pi = log_policy(distance)
    torch.testing.assert_close(log_pi.exp().sum(dim=-1), torch.ones(anchors, dtype=torch.float64))
    for k in range(anchors):
        nearest = distance[k].min().item()
        weights = [math.exp(-0.5 * (d - nearest)) for d in distance[k].tolist()]
        want = [w / sum(weights) for w in weights]
        assert log_pi[k].exp().tolist() == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_policy_does_not_depend_on_the_mask_area():
    """Same difference per token inside and outside: every area gives the same policy."""
    tokens, channels = 24, 3
    inside, outside = latents(4, 1, channels, seed=1), latents(4, 1, channels, seed=2)
    policies = []
    for area in (1, 2, 7, 12, 23):
        mask = (torch.arange(tokens) < area).double()
        candidates = torch.where(mask[:, None] > 0, inside, outside)
        policies.append(log_policy(masked_distance(candidates, torch.zeros(tokens, channels).double(), mask)))
    assert policies[0].exp().std() > 0.01
    for policy in policies[1:]:
        torch.testing.assert_close(policy, policies[0], rtol=1e-12, atol=1e-12)


def test_policy_of_perturbed_noise_is_near_uniform_at_every_mask_area():
    """method.md 1.3: d^2 about .22 to another candidate, half of that to the reference."""
    tokens, channels = 1024, 16
    reference = latents(tokens, channels, dtype=torch.float32)
    for fraction in (0.02, 0.25, 0.6):
        mask = (torch.arange(tokens) < fraction * tokens).float()
        g = torch.Generator().manual_seed(3)
        group = region_decoupled_noise(reference, mask, 6, 0.3, 0.01, g)
        distance = masked_distance(group, group[1], mask)
        assert distance[2:].mean().item() == pytest.approx(0.222, abs=0.02)
        assert distance[0].item() == pytest.approx(0.114, abs=0.02)
        assert log_policy(distance).exp().sub(1 / 6).abs().max() < 0.02


def test_ratio_is_exactly_one_at_the_old_weights():
    distance = masked_distance(
        latents(5, 9, 4, dtype=torch.float32), latents(3, 9, 4, seed=1, dtype=torch.float32), torch.ones(9)
    )
    log_pi = log_policy(distance)
    assert torch.equal(policy_ratio(log_pi, log_pi.detach().clone()), torch.ones(3, 5))
    terms = clipped_objective(log_pi, log_pi, torch.tensor([1.0, -2, 0.5, 0.25, 0.25]), 1e-4)
    assert terms.ratio_deviation.item() == 0.0 and terms.clipped_fraction.item() == 0.0
    assert torch.equal(terms.objective, torch.zeros(3))


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("group", "anchors"), [(2, 1), (5, 1), (6, 3)])
@pytest.mark.parametrize("spread", [0.1, 30.0])  # near-uniform and one-hot policies
def test_gradient_at_the_old_weights_is_the_weighted_advantage_sum(kind, group, anchors, spread):
    """dJ/d anchor = W * sum_i A_i x_i (method.md 1.3), float64."""
    tokens, channels = 7, 3
    candidates = spread * latents(group, tokens, channels)
    anchor = candidates[1 : 1 + anchors].clone().requires_grad_()
    mask = make_mask(kind, tokens).double()
    advantages = group_advantages(latents(group, seed=4))
    log_pi = log_policy(masked_distance(candidates, anchor, mask, 0.9, 1.1))
    clipped_objective(log_pi, log_pi, advantages, 1e-4).objective.sum().backward()
    pull = (advantages[:, None, None] * candidates).sum(dim=0)
    want = region_weights(mask, channels, 0.9, 1.1)[:, None] * pull
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(anchor.grad, want.expand(anchors, -1, -1), rtol=1e-9, atol=1e-9)


def test_gradient_through_the_leap_equals_finite_differences():
    """theta -> leap -> distance -> policy -> objective, away from theta_old, inside the clip."""
    states, candidates, mask = latents(2, 5, 3), latents(4, 5, 3, seed=1), make_mask("ragged", 5, 3).double()
    advantages = group_advantages(latents(4, seed=2))

    def objective(theta: torch.Tensor, old: float = 0.3) -> torch.Tensor:
        def log_pi(value):
            moved = leap(lambda x, s: value * torch.tanh(x), states, 0.8, 0.5)
            return log_policy(masked_distance(candidates, moved, mask))

        return clipped_objective(log_pi(theta), log_pi(torch.tensor(old).double()), advantages, 0.5).objective.mean()

    theta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    objective(theta).backward()
    with torch.no_grad():
        numeric = (objective(theta + 1e-5) - objective(theta - 1e-5)) / 2e-5
    assert abs(numeric.item()) > 1e-3
    assert theta.grad.item() == pytest.approx(numeric.item(), rel=1e-6)


@given(st.integers(1, 3), st.integers(2, 5), st.floats(1e-4, 0.5), st.floats(0, 0.5), st.integers(0, 999))
def test_objective_equals_the_formula_written_as_loops(anchors, group, clip, shift, seed):
    log_old = torch.log_softmax(latents(anchors, group, seed=seed), dim=-1)
    log_new = torch.log_softmax(log_old + shift * latents(anchors, group, seed=seed + 1), dim=-1)
    advantages = latents(group, seed=seed + 2)
    advantages[0] = 0.0
    terms = clipped_objective(log_new, log_old, advantages, clip)
    cut, deviation = 0, 0.0
    for k in range(anchors):
        total = 0.0
        for i in range(group):
            rho = math.exp(log_new[k, i].item() - log_old[k, i].item())
            a = advantages[i].item()
            total += min(a * rho, a * min(max(rho, 1 - clip), 1 + clip))
            cut += (a > 0 and rho > 1 + clip) or (a < 0 and rho < 1 - clip)
            deviation = max(deviation, abs(rho - 1))
        assert terms.objective[k].item() == pytest.approx(total, rel=1e-10, abs=1e-12)
    assert terms.clipped_fraction.item() == pytest.approx(cut / (anchors * group))
    assert terms.ratio_deviation.item() == pytest.approx(deviation, abs=1e-14)


def test_clipped_pairs_carry_no_gradient_and_the_others_all_of_it():
    log_old = torch.log(torch.tensor([[0.25, 0.25, 0.25, 0.25]], dtype=torch.float64))
    moved = torch.tensor([[0.4, 0.1, 0.4, 0.1]], dtype=torch.float64)
    log_new = torch.log(moved).requires_grad_()
    advantages = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    terms = clipped_objective(log_new, log_old, advantages, 0.1)
    terms.objective.sum().backward()
    # Gains already taken (more of the good, less of the bad) stop; movements the wrong way are pulled back.
    want = torch.tensor([[0.0, 0.0, -1.6, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(log_new.grad, want)
    assert terms.clipped_fraction.item() == 0.5


def test_old_policy_and_advantages_get_no_gradient():
    log_old = torch.log_softmax(latents(2, 3), dim=-1).requires_grad_()
    advantages = latents(3, seed=1).requires_grad_()
    log_new = torch.log_softmax(latents(2, 3, seed=2), dim=-1).requires_grad_()
    clipped_objective(log_new, log_old, advantages, 0.2).objective.sum().backward()
    (categorical_kl(log_old, log_new).sum()).backward()
    assert log_new.grad is not None and log_old.grad is None and advantages.grad is None


@given(st.integers(1, 3), st.integers(2, 6), st.integers(0, 999))
def test_kl_equals_the_sum_and_is_never_negative(anchors, group, seed):
    log_old = torch.log_softmax(latents(anchors, group, seed=seed), dim=-1)
    log_new = torch.log_softmax(latents(anchors, group, seed=seed + 1), dim=-1)
    kl = categorical_kl(log_old, log_new)
    assert kl.shape == (anchors,)
    for k in range(anchors):
        old, new = log_old[k].exp().tolist(), log_new[k].exp().tolist()
        want = sum(p * math.log(p / q) for p, q in zip(old, new, strict=True))
        assert kl[k].item() == pytest.approx(want, rel=1e-9, abs=1e-12) and kl[k] >= 0


def test_kl_vanishes_with_its_gradient_at_the_old_weights():
    distance = latents(2, 4).square().requires_grad_()
    log_pi = log_policy(distance)
    kl = categorical_kl(log_pi, log_pi)
    assert torch.equal(kl, torch.zeros(2, dtype=torch.float64))
    kl.sum().backward()
    torch.testing.assert_close(distance.grad, torch.zeros_like(distance), rtol=0, atol=1e-15)


def test_faults_are_sentences():
    x, y, mask = latents(3, 4, 2), latents(4, 2), torch.ones(4)
    with pytest.raises(ValueError, match=r"candidates must be \[G, N, C\]"):
        masked_distance(x, latents(5, 2), mask)
    with pytest.raises(ValueError, match=r"candidates must be \[G, N, C\]"):
        masked_distance(x[0], y, mask)
    with pytest.raises(ValueError, match=r"shape \[4\], got \[5\]"):
        masked_distance(x, y, torch.ones(5))
    with pytest.raises(ValueError, match="divided by 255"):
        masked_distance(x, y, 255 * mask)
    with pytest.raises(ValueError, match="tau_edit and tau_base must be above 0"):
        masked_distance(x, y, mask, tau_edit=0.0)
    with pytest.raises(ValueError, match="tau_power must be 1 or 2"):
        masked_distance(x, y, mask, tau_power=3)
    with pytest.raises(ValueError, match="channels at least 1"):
        region_weights(mask, 0)
    log_pi = log_policy(latents(2, 3).square())
    with pytest.raises(ValueError, match=r"must be \[B, G\] and advantages \[G\]"):
        clipped_objective(log_pi, log_pi, torch.zeros(2), 0.1)
    with pytest.raises(ValueError, match=r"must be \[B, G\] and advantages \[G\]"):
        clipped_objective(log_pi[0], log_pi[0], torch.zeros(3), 0.1)
    with pytest.raises(ValueError, match=r"clip must be in \(0, 1\)"):
        clipped_objective(log_pi, log_pi, torch.zeros(3), 0.0)


def test_a_candidate_without_advantage_cannot_make_the_objective_nan():
    log_old = torch.tensor([[-900.0, -0.1, -2.0]], dtype=torch.float64)
    log_new = torch.tensor([[-0.1, -0.1, -2.0]], dtype=torch.float64, requires_grad=True)
    found = clipped_objective(log_new, log_old, torch.tensor([0.0, 1.0, -1.0]), 1e-3)
    found.objective.sum().backward()
    assert found.objective.item() == pytest.approx(0.0) and torch.isfinite(log_new.grad).all()
    assert log_new.grad[0, 0] == 0 and log_new.grad[0, 1] == pytest.approx(1.0)
    assert found.ratio_deviation == torch.inf  # and the gate still sees it


def test_kl_of_candidates_that_neither_policy_takes_is_zero():
    log_old = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    log_new = torch.tensor([[0.25, 0.75, 0.0]], dtype=torch.float64).log().requires_grad_()
    kl = categorical_kl(log_old, log_new)
    kl.sum().backward()
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl.item() == pytest.approx(expected) and torch.isfinite(log_new.grad).all()
