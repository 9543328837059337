import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing.flow import forward_noised
from learner.algorithms.final_sample import (
    elbo,
    nft_loss,
    nft_velocities,
    optimality,
    policy_gradient_loss,
)

sizes = {"batch": st.integers(1, 3), "tokens": st.integers(1, 5), "channels": st.integers(1, 4)}
FORMS = ("epg", "epg_noratio", "pepg", "pepg_noratio")


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def samples(batch: int = 2, tokens: int = 4, channels: int = 3, seed: int = 0):
    """x0, x_t, sigma, v, v_old in float64."""
    x0, noise, v, v_old = (latents(batch, tokens, channels, seed=10 * seed + k) for k in range(4))
    sigma = torch.rand(batch, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x0, forward_noised(x0, noise, sigma), sigma, v, v_old


def error_by_loops(x0, x_t, sigma, velocity) -> float:
    """mean e^2 / max(mean |e|, 1e-5) on plain numbers; x0 and x_t [N, C], velocity a function of (u, c)."""
    tokens, channels = x0.shape
    squares = sizes = 0.0
    for u in range(tokens):
        for c in range(channels):
            e = float(x_t[u, c]) - float(sigma) * velocity(u, c) - float(x0[u, c])
            squares += e * e
            sizes += abs(e)
    n = tokens * channels
    return squares / n / max(sizes / n, 1e-5)


@given(**sizes, beta=st.sampled_from([0.1, 0.5, 1.0, 2.0]), seed=st.integers(0, 99))
def test_nft_loss_equals_the_formula_written_as_loops(batch, tokens, channels, beta, seed):
    x0, x_t, sigma, v, v_old = samples(batch, tokens, channels, seed)
    r = torch.rand(batch, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    got = nft_loss(x0, x_t, sigma, v, v_old, r, beta)
    assert got.shape == (batch,) and got.dtype == torch.float64
    for b in range(batch):
        new, old = v[b].tolist(), v_old[b].tolist()
        good = error_by_loops(x0[b], x_t[b], sigma[b], lambda u, c: (1 - beta) * old[u][c] + beta * new[u][c])  # noqa: B023
        bad = error_by_loops(x0[b], x_t[b], sigma[b], lambda u, c: (1 + beta) * old[u][c] - beta * new[u][c])  # noqa: B023
        want = float(r[b]) * good / beta + (1 - float(r[b])) * bad / beta
        assert got[b].item() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("beta", [0.1, 1.0, 1.7])
@pytest.mark.parametrize("r", [0.0, 0.5, 1.0, 0.8])
def test_nft_gradient_at_the_old_weights_in_closed_form(beta, r):
    """(1 - 2 r) * 2 sigma e / (w N C), whatever beta is; none at r = .5."""
    x0, x_t, sigma, _, v_old = samples()
    v = v_old.clone().requires_grad_()
    nft_loss(x0, x_t, sigma, v, v_old, torch.full((2,), r, dtype=torch.float64), beta).sum().backward()
    level = sigma.view(2, 1, 1)
    e = x_t - level * v_old - x0
    w = e.abs().mean(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(v.grad, (1 - 2 * r) * 2 * level * e / (w * 12), rtol=1e-9, atol=1e-12)


def test_nft_of_good_samples_pulls_to_them_and_of_bad_ones_away():
    x0, x_t, sigma, _, v_old = samples()

    def off(r: float) -> torch.Tensor:
        v = v_old.clone().requires_grad_()
        nft_loss(x0, x_t, sigma, v, v_old, torch.full((2,), r), 1.0).sum().backward()
        return -elbo(x0, x_t, sigma, v_old - 1e-3 * v.grad)

    here = -elbo(x0, x_t, sigma, v_old)
    assert (off(1.0) < here).all() and (off(0.0) > here).all()
    torch.testing.assert_close(off(0.5), here, rtol=0, atol=1e-12)


def test_both_branches_have_a_weight_of_their_own_and_it_has_no_gradient():
    """beta 1, x_t = x0 = 0, sigma 1: the errors are -v and v - 2 v_old."""
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    v, old = torch.full_like(zero, 2.0).requires_grad_(), torch.full_like(zero, 5.0)
    one = torch.ones(1, dtype=torch.float64)
    good, bad = (nft_loss(zero, zero, one, v, old, r * one, 1.0) for r in (1.0, 0.0))
    assert good.item() == pytest.approx(2**2 / 2) and bad.item() == pytest.approx(8**2 / 8)
    (good + bad).sum().backward()
    assert v.grad.item() == pytest.approx(2 * 2 / 2 - 2 * 8 / 8)


def test_an_error_of_nothing_is_divided_by_the_floor():
    x0, x_t, sigma, _, _ = samples()
    exact = (x_t - x0) / sigma.view(2, 1, 1)
    v = exact.clone().requires_grad_()
    loss = nft_loss(x0, x_t, sigma, v, exact, torch.ones(2), 1.0)
    loss.sum().backward()
    assert (loss < 1e-20).all() and v.grad.isfinite().all()
    near = elbo(x0, x_t, sigma, exact + 1e-7)
    want = (sigma * 1e-7).square() / 1e-5
    torch.testing.assert_close(near, -want, rtol=1e-6, atol=0)


def test_implicit_velocities_lie_on_either_side_of_the_old_one():
    v, v_old = latents(2, 3, 2), latents(2, 3, 2, seed=1)
    for beta in (0.3, 1.0):
        positive, negative = nft_velocities(v, v_old, beta)
        torch.testing.assert_close((positive + negative) / 2, v_old)
        torch.testing.assert_close(positive - v_old, beta * (v - v_old))
    torch.testing.assert_close(nft_velocities(v, v_old, 1.0)[0], v)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=9), st.floats(0.5, 10))
def test_optimality_equals_the_formula_and_is_a_probability(values, clip):
    got = optimality(torch.tensor(values, dtype=torch.float64), clip)
    want = [min(max(min(max(a, -clip), clip) / (2 * clip) + 0.5, 0.0), 1.0) for a in values]
    assert got.tolist() == pytest.approx(want, abs=1e-12)
    assert ((got >= 0) & (got <= 1)).all()


def test_optimality_example():
    assert optimality(torch.tensor([-7.0, -5.0, 0.0, 2.5, 5.0])).tolist() == [0.0, 0.0, 0.5, 0.75, 1.0]


@given(**sizes, seed=st.integers(0, 99))
def test_elbo_equals_the_formula_written_as_loops(batch, tokens, channels, seed):
    x0, x_t, sigma, v, _ = samples(batch, tokens, channels, seed)
    got = elbo(x0, x_t, sigma, v)
    for b in range(batch):
        want = -error_by_loops(x0[b], x_t[b], sigma[b], lambda u, c: v[b, u, c].item())  # noqa: B023
        assert got[b].item() == pytest.approx(want, rel=1e-9)


@given(
    st.lists(st.tuples(*[st.floats(-3, 3)] * 3), min_size=1, max_size=5),
    st.sampled_from(FORMS),
)
def test_policy_gradient_equals_the_formula_written_as_loops(rows, form):
    f_new, f_old, advantages = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    f_new.requires_grad_()
    got = policy_gradient_loss(f_new, f_old, advantages, form)
    got.sum().backward()
    for b, (new, old, a) in enumerate(rows):
        rho = 1.0 if form.endswith("noratio") else math.exp(new - old)
        factor = -rho * (a - (new - old) if form.startswith("pepg") else a)
        assert got[b].item() == pytest.approx(factor * new, rel=1e-9, abs=1e-12)
        assert f_new.grad[b].item() == pytest.approx(factor, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_policy_gradients_at_the_old_weights_in_closed_form(form):
    """-A * 2 sigma e / (w N C), and clip times the gradient of DiffusionNFT."""
    x0, x_t, sigma, _, v_old = samples()
    advantages = torch.tensor([1.5, -0.7], dtype=torch.float64)
    v = v_old.clone().requires_grad_()
    policy_gradient_loss(elbo(x0, x_t, sigma, v), elbo(x0, x_t, sigma, v_old), advantages, form).sum().backward()
    level = sigma.view(2, 1, 1)
    e = x_t - level * v_old - x0
    w = e.abs().mean(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(v.grad, -advantages.view(2, 1, 1) * 2 * level * e / (w * 12), rtol=1e-9, atol=1e-12)
    u = v_old.clone().requires_grad_()
    nft_loss(x0, x_t, sigma, u, v_old, optimality(advantages, 5.0), 0.4).sum().backward()
    torch.testing.assert_close(5 * u.grad, v.grad, rtol=1e-9, atol=1e-12)


def test_pepg_ends_where_the_log_ratio_has_reached_the_advantage():
    f = torch.tensor([0.5, -0.5], dtype=torch.float64, requires_grad=True)
    policy_gradient_loss(f, torch.zeros(2), torch.tensor([0.5, -0.5]), "pepg").sum().backward()
    assert f.grad.tolist() == [0.0, 0.0]


def test_a_sample_without_an_advantage_has_no_part_however_far_it_went():
    f = torch.tensor([1e4, 1.0], requires_grad=True)
    loss = policy_gradient_loss(f, torch.zeros(2), torch.tensor([0.0, 0.0]), "epg")
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0] and f.grad.tolist() == [0.0, 0.0]


def test_half_precision_is_reduced_in_float32():
    x0, x_t, sigma, v, v_old = (x.half() for x in samples(2, 64, 64))
    r = torch.full((2,), 0.3).half()
    got = nft_loss(x0, x_t, sigma, v, v_old, r, 0.5)
    want = nft_loss(*(x.double() for x in (x0, x_t, sigma, v, v_old, r)), 0.5)
    assert got.dtype == elbo(x0, x_t, sigma, v).dtype == optimality(r).dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)
    assert policy_gradient_loss(r, r, r, "pepg").dtype == torch.float32


def test_constants_get_no_gradient():
    x0, x_t, sigma, v, v_old = (x.requires_grad_() for x in samples())
    r = torch.tensor([0.2, 0.9], dtype=torch.float64, requires_grad=True)
    nft_loss(x0, x_t, sigma, v, v_old, r, 0.5).sum().backward()
    f_old = elbo(x0, x_t, sigma, v_old)
    policy_gradient_loss(elbo(x0, x_t, sigma, v), f_old, r, "pepg").sum().backward()
    assert v.grad is not None
    assert all(x.grad is None for x in (x0, x_t, sigma, v_old, r))


def test_faults_are_sentences():
    x0, x_t, sigma, v, v_old = samples()
    r = torch.ones(2)
    with pytest.raises(ValueError, match=r"v and v_old must have the same shape \[B, N, C\]"):
        nft_loss(x0, x_t, sigma, v, v_old[:1], r, 1.0)
    with pytest.raises(ValueError, match=r"x0, x_t and v must have the same shape \[B, N, C\]"):
        nft_loss(x0[:, :1], x_t, sigma, v, v_old, r, 1.0)
    with pytest.raises(ValueError, match=r"sigma: expected one value per sample, \[2\], got \[3\]"):
        elbo(x0, x_t, torch.ones(3), v)
    for bad in (1.2, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"sigma: expected values in \[0, 1\]"):
            elbo(x0, x_t, torch.full((2,), bad), v)
        with pytest.raises(ValueError, match=r"optimality: expected values in \[0, 1\]"):
            nft_loss(x0, x_t, sigma, v, v_old, torch.full((2,), bad), 1.0)
    with pytest.raises(ValueError, match=r"optimality: expected one value per sample, \[2\], got \[\]"):
        nft_loss(x0, x_t, sigma, v, v_old, torch.tensor(0.5), 1.0)
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="beta must be above 0"):
            nft_loss(x0, x_t, sigma, v, v_old, r, bad)
        with pytest.raises(ValueError, match="clip must be above 0"):
            optimality(r, bad)
    with pytest.raises(ValueError, match="form must be one of epg, epg_noratio, pepg, pepg_noratio, got 'par'"):
        policy_gradient_loss(r, r, r, "par")
    with pytest.raises(ValueError, match=r"f_new, f_old and advantages must be \[B\]"):
        policy_gradient_loss(r, r[:1], r, "epg")
