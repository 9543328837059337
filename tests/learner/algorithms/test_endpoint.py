import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithms.credit import group_advantages
from learner.algorithms.endpoint import endpoint_direction, endpoint_term, fdfo_loss

MASKS = ("hard", "one token", "all tokens", "no token", "soft")


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_mask(kind: str, tokens: int, seed: int = 0) -> torch.Tensor:
    values = torch.rand(tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {
        "hard": ((values < 0.5) | (torch.arange(tokens) == 0)).double(),
        "one token": (torch.arange(tokens) == tokens // 2).double(),
        "all tokens": torch.ones(tokens, dtype=torch.float64),
        "no token": torch.zeros(tokens, dtype=torch.float64),
        "soft": values,
    }[kind]


def masked_mean(rows, mask) -> float:
    """Mean over mask elements of [N][C] plain numbers; 0 for an empty mask."""
    size = sum(mask) * len(rows[0])
    return sum(m * q for m, row in zip(mask, rows, strict=True) for q in row) / size if size else 0.0


@given(
    valid=st.integers(2, 5),
    tokens=st.integers(1, 5),
    channels=st.integers(1, 3),
    kind=st.sampled_from(MASKS),
    seed=st.integers(0, 99),
)
def test_direction_equals_the_formula_written_as_loops(valid, tokens, channels, kind, seed):
    final, advantages = latents(valid, tokens, channels, seed=seed), latents(valid, seed=seed + 1)
    mask = make_mask(kind, tokens, seed)
    got = endpoint_direction(final, advantages, mask)
    assert got.shape == (tokens, channels) and got.dtype == torch.float64
    x, weights = final.tolist(), mask.tolist()
    mean = [[sum(x[i][u][c] for i in range(valid)) / valid for c in range(channels)] for u in range(tokens)]
    squares = 0.0
    for i in range(valid):
        rows = [[(x[i][u][c] - mean[u][c]) ** 2 for c in range(channels)] for u in range(tokens)]
        squares += masked_mean(rows, weights) / valid
    for u in range(tokens):
        for c in range(channels):
            pull = sum(advantages[i].item() * (x[i][u][c] - mean[u][c]) for i in range(valid)) / valid
            want = pull / math.sqrt(squares) if squares else 0.0
            assert got[u, c].item() == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_direction_of_the_docstring():
    final = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1)
    assert endpoint_direction(final, torch.tensor([-1.0, 1.0]), torch.ones(1)).item() == pytest.approx(1.0)


def test_direction_does_not_depend_on_scale_or_offset_and_is_no_larger_than_the_advantages():
    final, advantages, mask = latents(4, 6, 3), latents(4, seed=1), make_mask("soft", 6)
    d = endpoint_direction(final, advantages, mask)
    torch.testing.assert_close(endpoint_direction(7 * final + latents(6, 3, seed=2), advantages, mask), d)
    size = masked_mean(d.square().tolist(), mask.tolist())
    assert 0 < size <= advantages.square().mean().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_nothing_can_be_told_the_direction_is_zero(dtype):
    final, advantages = latents(3, 5, 2).to(dtype), torch.tensor([1.0, -0.5, -0.5])
    hard = make_mask("hard", 5)
    zero = torch.zeros(5, 2, dtype=dtype)
    equal_rewards = group_advantages(torch.full((3,), 0.3))
    assert torch.equal(endpoint_direction(final, equal_rewards, hard), zero)
    assert torch.equal(endpoint_direction(final, advantages, torch.zeros(5)), zero)
    assert torch.equal(endpoint_direction(final[:1], advantages[:1], hard), zero)
    # The mean of three equal numbers is off by rounding, which would be divided by itself.
    same = final[:1].expand(3, -1, -1)
    assert torch.equal(endpoint_direction(same, advantages, hard), zero)
    outside = torch.where((hard > 0)[:, None], same, final)
    assert torch.equal(endpoint_direction(outside, advantages, hard), zero)
    assert torch.equal(endpoint_direction(torch.zeros_like(final), advantages, hard), zero)


def test_rewards_that_are_all_shifted_give_the_same_direction():
    final, advantages, mask = latents(4, 6, 3), latents(4, seed=1), make_mask("hard", 6)
    shifted = endpoint_direction(final, advantages + 3, mask)
    torch.testing.assert_close(shifted, endpoint_direction(final, advantages, mask))


@given(
    pairs=st.integers(1, 3),
    tokens=st.integers(1, 5),
    channels=st.integers(1, 3),
    kind=st.sampled_from(MASKS),
    seed=st.integers(0, 99),
)
def test_term_equals_the_formula_written_as_loops_and_so_does_its_gradient(pairs, tokens, channels, kind, seed):
    v, d = latents(pairs, tokens, channels, seed=seed).requires_grad_(), latents(tokens, channels, seed=seed + 1)
    mask = make_mask(kind, tokens, seed)
    got = endpoint_term(v, d, mask)
    got.backward()
    want = sum(masked_mean((v.detach()[p] * d).tolist(), mask.tolist()) for p in range(pairs)) / pairs
    assert got.shape == () and got.item() == pytest.approx(want, rel=1e-9, abs=1e-12)
    size = pairs * channels * mask.sum().item()
    gradient = mask[:, None] * d / size if size else torch.zeros_like(d)
    torch.testing.assert_close(v.grad, gradient.expand(pairs, -1, -1))


def test_a_step_against_the_term_moves_the_clean_estimate_to_the_better_end_points():
    better, worse, mask = latents(5, 2), latents(5, 2, seed=1), make_mask("all tokens", 5)
    d = endpoint_direction(torch.stack([better, worse]), torch.tensor([1.0, -1.0]), mask)
    x, v = latents(1, 5, 2, seed=2), latents(1, 5, 2, seed=3).requires_grad_()
    endpoint_term(v, d, mask).backward()
    before, after = (x - 0.5 * one for one in (v.detach(), v.detach() - 0.1 * v.grad))
    assert ((after - before)[0] * (better - worse)).sum() > 0


@given(
    pairs=st.integers(1, 3),
    tokens=st.integers(1, 4),
    channels=st.integers(1, 3),
    kind=st.sampled_from(MASKS),
    contrast=st.sampled_from([1.0, 0.2, -0.5]),
    per_pair=st.booleans(),
    seed=st.integers(0, 99),
)
def test_fdfo_equals_the_formula_written_as_loops(pairs, tokens, channels, kind, contrast, per_pair, seed):
    gain, epsilon = 0.7, 0.03
    v, v_old, d = (latents(pairs, tokens, channels, seed=10 * seed + k) for k in range(3))
    mask = make_mask(kind, tokens, seed)
    got = fdfo_loss(v, v_old, d if per_pair else d[0], mask, gain, contrast, epsilon)
    assert got.shape == (pairs,)
    for p in range(pairs):
        push = gain * (d[p] if per_pair else d[0])
        target = v_old[p] - push
        g = masked_mean(push.square().tolist(), mask.tolist()) - masked_mean(
            (v[p] - target).square().tolist(), mask.tolist()
        )
        want = -contrast * math.exp(g) + abs(contrast) / (2 * epsilon) * (math.exp(g) - 1) ** 2
        assert got[p].item() == pytest.approx(want, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("contrast", [1.0, 0.3, -0.3])
def test_fdfo_at_the_old_weights_is_the_endpoint_term_times_twice_contrast_and_gain(kind, contrast):
    v_old, d, mask = latents(2, 6, 3), latents(6, 3, seed=1), make_mask(kind, 6)
    v, u = (v_old.clone().requires_grad_() for _ in range(2))
    loss = fdfo_loss(v, v_old, d, mask, gain=0.4, contrast=contrast)
    assert loss.tolist() == [-contrast] * 2
    loss.mean().backward()
    endpoint_term(u, d, mask).backward()
    torch.testing.assert_close(v.grad, 2 * contrast * 0.4 * u.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("gain", "contrast", "end"), [(1.0, 1.0, 1.03), (1.0, -1.0, 0.97), (0.01, 1.0, None)])
def test_fdfo_ends_at_epsilon_or_at_its_target(gain, contrast, end):
    v_old, d, mask = latents(1, 4, 2), latents(4, 2, seed=1), make_mask("all tokens", 4)
    v = v_old.clone()
    for _ in range(4000):
        v.requires_grad_()
        (gradient,) = torch.autograd.grad(fdfo_loss(v, v_old, d, mask, gain, contrast).sum(), v)
        v = (v - 0.02 * gradient).detach()
    if end is None:
        torch.testing.assert_close(v, v_old - gain * d, rtol=0, atol=1e-6)
    else:
        g = (gain * d).square().mean() - (v - v_old + gain * d).square().mean()
        assert g.exp().item() == pytest.approx(end, abs=1e-6)


def test_fdfo_keeps_the_digits_of_a_small_move():
    v_old, d = latents(1, 8, 8).float(), latents(8, 8, seed=1).float()
    v = v_old + 2.0**-16
    moved = (v - v_old).double()
    exact = -(moved * (moved + 2 * d.double())).mean().item()
    got = -fdfo_loss(v.double(), v_old.double(), d.double(), torch.ones(8), 1.0, epsilon=1e9).item() - 1
    assert got == pytest.approx(exact, rel=1e-4)
    assert fdfo_loss(v_old, v_old, 100 * d, torch.ones(8), 1.0).item() == -1.0


def test_half_precision_is_reduced_in_float32_and_constants_get_no_gradient():
    final, advantages = latents(3, 16, 64).half().requires_grad_(), torch.tensor([1.0, 0.0, -1.0]).requires_grad_()
    mask = make_mask("soft", 16).half()
    d = endpoint_direction(final, advantages, mask)
    want = endpoint_direction(final.double(), advantages.double(), mask.double())
    assert d.dtype == torch.float32 and not d.requires_grad
    torch.testing.assert_close(d.double(), want, rtol=1e-4, atol=1e-6)
    v, v_old = (latents(2, 16, 64, seed=k).half().requires_grad_() for k in (1, 2))
    d.requires_grad_()
    term, loss = endpoint_term(v, d, mask), fdfo_loss(v, v_old, d, mask, 0.5)
    assert term.dtype == loss.dtype == torch.float32
    (term + loss.sum()).backward()
    assert v.grad is not None and all(x.grad is None for x in (v_old, d, final, advantages))


def test_faults_are_sentences():
    x, mask = latents(2, 4, 3), torch.ones(4)
    with pytest.raises(ValueError, match=r"final must be \[V, N, C\] and advantages \[V\]"):
        endpoint_direction(x, torch.ones(3), mask)
    with pytest.raises(ValueError, match="with V at least 1"):
        endpoint_direction(x[:0], torch.ones(0), mask)
    with pytest.raises(ValueError, match=r"shape \[4\], got \[3\]"):
        endpoint_direction(x, torch.ones(2), mask[:3])
    with pytest.raises(ValueError, match=r"v must be \[P, N, C\] and direction \[N, C\]"):
        endpoint_term(x, x, mask)
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\], 1 = editable"):
        endpoint_term(x, x[0], 2 * mask)
    with pytest.raises(ValueError, match=r"direction \[N, C\] or \[P, N, C\]"):
        fdfo_loss(x, x, x[:1], mask, 1.0)
    for gain, epsilon in ((0.0, 0.03), (1.0, 0.0), (math.nan, 0.03)):
        with pytest.raises(ValueError, match="gain and epsilon must be above 0"):
            fdfo_loss(x, x, x[0], mask, gain, epsilon=epsilon)
