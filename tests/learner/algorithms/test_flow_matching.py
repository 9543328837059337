import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing.flow import forward_noised, predicted_clean
from learner.algorithms.flow_matching import awm_loss, dpo_loss, flow_matching_loss

sizes = {"batch": st.integers(1, 3), "tokens": st.integers(1, 5), "channels": st.integers(1, 4)}


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_square(x: torch.Tensor, y: torch.Tensor, weights=None) -> float:
    """Mean of (x - y)^2 over [N, C] on plain numbers, weighted by token."""
    tokens, channels = x.shape
    total = weight = 0.0
    for u in range(tokens):
        w = 1.0 if weights is None else float(weights[u])
        for c in range(channels):
            total += w * (float(x[u, c]) - float(y[u, c])) ** 2
            weight += w
    return total / weight if weight else 0.0


@given(**sizes, kind=st.sampled_from(["none", "shared", "per sample", "hard"]), seed=st.integers(0, 99))
def test_flow_matching_equals_the_formula_written_as_loops(batch, tokens, channels, kind, seed):
    v, x0, noise = (latents(batch, tokens, channels, seed=10 * seed + k) for k in range(3))
    weights = None if kind == "none" else 3 * latents(batch, tokens, seed=seed).abs()
    if kind == "hard":
        weights = (weights > 1.5).double()
    rows = [None] * batch if weights is None else list(weights)
    if kind == "shared":
        weights, rows = weights[0], [weights[0]] * batch
    got = flow_matching_loss(v, x0, noise, weights)
    assert got.shape == (batch,) and got.dtype == torch.float64
    for b in range(batch):
        want = mean_square(v[b], noise[b] - x0[b], rows[b])
        assert got[b].item() == pytest.approx(want, rel=1e-10, abs=1e-14)


def test_equal_weights_change_nothing_and_none_cost_nothing():
    v, x0, noise = (latents(2, 4, 3, seed=k) for k in range(3))
    plain = flow_matching_loss(v, x0, noise)
    torch.testing.assert_close(flow_matching_loss(v, x0, noise, torch.full((4,), 0.7)), plain)
    v.requires_grad_()
    loss = flow_matching_loss(v, x0, noise, torch.tensor([[0.0] * 4, [0.0, 1.0, 0.0, 0.0]]))
    loss.sum().backward()
    assert loss[0].item() == 0 and loss[1].item() > 0
    assert torch.equal(v.grad[0], torch.zeros_like(v.grad[0]))
    assert (v.grad[1].abs().sum(dim=-1) > 0).tolist() == [False, True, False, False]


def test_flow_matching_is_the_error_of_the_clean_estimate_over_sigma():
    v, x0, noise = (latents(2, 4, 3, seed=k) for k in range(3))
    sigma = torch.tensor([0.3, 0.9], dtype=torch.float64)
    clean = predicted_clean(forward_noised(x0, noise, sigma), v, sigma)
    want = (clean - x0).square().mean(dim=(1, 2)) / sigma.square()
    torch.testing.assert_close(flow_matching_loss(v, x0, noise), want)


@given(st.lists(st.tuples(*[st.floats(-3, 3)] * 3), min_size=1, max_size=5), st.sampled_from([1e-3, 0.2, 1.0]))
def test_awm_equals_the_formula_written_as_loops(rows, clip):
    columns = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    got = awm_loss(*columns, clip)
    for b, (new, old, a) in enumerate(rows):
        ratio = math.exp(new - old)
        want = -min(a * ratio, a * min(max(ratio, 1 - clip), 1 + clip))
        assert got[b].item() == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("clip", [1e-3, 1.0])
def test_awm_gradient_at_the_old_weights_in_closed_form(clip):
    """2 A (v - (noise - x0)) / (N C)."""
    v_old, x0, noise = (latents(2, 4, 3, seed=k) for k in range(3))
    v = v_old.clone().requires_grad_()
    advantages = torch.tensor([1.5, -0.7], dtype=torch.float64)
    new, old = (-flow_matching_loss(one, x0, noise) for one in (v, v_old))
    loss = awm_loss(new, old, advantages, clip)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), -advantages)
    torch.testing.assert_close(v.grad, 2 * advantages.view(2, 1, 1) * (v_old - (noise - x0)) / 12)


def test_awm_is_clipped_on_the_side_of_the_advantage_only():
    new = torch.tensor([0.5, 0.5, -0.5, -0.5], dtype=torch.float64, requires_grad=True)
    awm_loss(new, torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.1).sum().backward()
    up, down = math.exp(0.5), math.exp(-0.5)
    assert new.grad.tolist() == pytest.approx([0.0, up, -down, 0.0])


def test_a_sample_without_an_advantage_has_no_part_however_far_it_went():
    new = torch.tensor([1e4], requires_grad=True)
    loss = awm_loss(new, torch.zeros(1), torch.zeros(1), 1.0)
    loss.sum().backward()
    assert loss.item() == 0 and new.grad.item() == 0


@given(**sizes, beta=st.sampled_from([0.1, 1.0, 20.0]), seed=st.integers(0, 99))
def test_dpo_equals_the_formula_written_as_loops(batch, tokens, channels, beta, seed):
    six = [latents(batch, tokens, channels, seed=10 * seed + k) for k in range(6)]
    got = dpo_loss(*six, beta)
    assert got.shape == (batch,) and got.dtype == torch.float64
    for b in range(batch):
        w, w_ref, w_target, l, l_ref, l_target = (one[b] for one in six)  # noqa: E741
        gained = (mean_square(w, w_target) - mean_square(w_ref, w_target)) - (
            mean_square(l, l_target) - mean_square(l_ref, l_target)
        )
        z = -beta / 2 * gained
        want = math.log1p(math.exp(-z)) if z > 0 else -z + math.log1p(math.exp(z))
        assert got[b].item() == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_dpo_at_the_reference_is_log_two_and_its_gradient_in_closed_form():
    """beta / 2 * (v_w - t_w) / (N C), and the opposite for the other sample."""
    w_ref, w_target, l_ref, l_target = (latents(2, 4, 3, seed=k) for k in range(4))
    w, other = w_ref.clone().requires_grad_(), l_ref.clone().requires_grad_()
    loss = dpo_loss(w, w_ref, w_target, other, l_ref, l_target, 3.0)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.full((2,), math.log(2), dtype=torch.float64))
    torch.testing.assert_close(w.grad, 1.5 * (w_ref - w_target) / 12)
    torch.testing.assert_close(other.grad, -1.5 * (l_ref - l_target) / 12)


def test_dpo_far_from_the_reference_is_finite():
    zero, far = torch.zeros(1, 2, 2), torch.full((1, 2, 2), 1e3)
    v = far.clone().requires_grad_()
    loss = dpo_loss(v, zero, zero, zero, zero, zero, 5000.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(2.5e9) and v.grad.isfinite().all()


def test_half_precision_is_reduced_in_float32():
    six = [latents(2, 64, 64, seed=k).half() for k in range(6)]
    got = flow_matching_loss(*six[:3])
    assert got.dtype == torch.float32 == dpo_loss(*six, 1.0).dtype
    torch.testing.assert_close(got.double(), flow_matching_loss(*(x.double() for x in six[:3])), rtol=1e-5, atol=0)
    row = torch.zeros(2).half()
    assert awm_loss(row, row, row, 0.1).dtype == torch.float32


def test_constants_get_no_gradient():
    six = [latents(2, 4, 3, seed=k).requires_grad_() for k in range(6)]
    v, x0, noise = six[:3]
    old, advantages = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    awm_loss(-flow_matching_loss(v, x0, noise), old, advantages, 1.0).sum().backward()
    assert v.grad is not None and all(x.grad is None for x in (x0, noise, old, advantages))
    dpo_loss(*six, 1.0).sum().backward()
    assert [x.grad is not None for x in six] == [True, False, False, True, False, False]


def test_faults_are_sentences():
    x, row = latents(2, 4, 3), torch.ones(2)
    with pytest.raises(ValueError, match=r"v, x0 and noise must have the same shape \[B, N, C\]"):
        flow_matching_loss(x, x[:1], x)
    with pytest.raises(ValueError, match=r"weights \[N\] or \[B, N\], got \[2, 4, 3\] and \[3\]"):
        flow_matching_loss(x, x, x, torch.ones(3))
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="token weights must be finite and not negative"):
            flow_matching_loss(x, x, x, torch.full((4,), bad))
    with pytest.raises(ValueError, match=r"log_new, log_old and advantages must be \[B\]"):
        awm_loss(row, row, row[:1], 0.1)
    for bad in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"clip must be in \(0, 1\]"):
            awm_loss(row, row, row, bad)
    with pytest.raises(ValueError, match=r"velocities, references and targets must have the same shape"):
        dpo_loss(x, x, x, x, x, x[:, :1], 1.0)
    for bad in (0.0, math.nan):
        with pytest.raises(ValueError, match="beta must be above 0"):
            dpo_loss(x, x, x, x, x, x, bad)
