import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithms.preservation import UNEDITED, source_anchored_background, undone_edit, velocity_anchor


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft_or_hard_mask(tokens: int, seed: int) -> torch.Tensor:
    mask = torch.rand(tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask[0] = 0.0
    return mask if seed % 2 else (mask < 0.5).double() * (torch.arange(tokens) > 0)


@given(
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.booleans(),
    st.integers(0, 99),
)
def test_source_term_equals_the_formula_written_as_loops(batch, tokens, channels, tolerance, by_sigma, seed):
    x, source = latents(batch, tokens, channels, seed=seed), latents(tokens, channels, seed=seed + 1)
    mask = soft_or_hard_mask(tokens, seed)
    sigma = torch.rand(batch, generator=torch.Generator().manual_seed(seed)) * 0.9 + 0.1 if by_sigma else None
    total = weight = 0.0
    for b in range(batch):
        for u in range(tokens):
            square = sum((x[b, u, c].item() - source[u, c].item()) ** 2 for c in range(channels)) / channels
            scale = 1.0 if sigma is None else sigma[b].item() ** 2
            total += (1 - mask[u].item()) * max(0.0, square - tolerance) / scale
            weight += 1 - mask[u].item()
    got = source_anchored_background(x, source, mask, tolerance, sigma)
    assert got.shape == () and got.item() == pytest.approx(total / weight, rel=1e-10, abs=1e-12)


def test_source_term_pulls_background_tokens_to_the_source_and_no_others():
    x = latents(2, 5, 3).requires_grad_()
    source, mask = latents(5, 3, seed=1), torch.tensor([1.0, 0, 0, 1, 0])
    source_anchored_background(x, source, mask).backward()
    want = 2 * (x.detach() - source) * (1 - mask.double())[:, None] / (2 * 3 * 3)
    torch.testing.assert_close(x.grad, want)


def test_by_sigma_every_step_pulls_the_velocity_alike():
    x, v, source = latents(1, 4, 3).expand(2, -1, -1), latents(1, 4, 3, seed=1), latents(4, 3, seed=2)
    sigma, mask = torch.tensor([0.9, 0.1], dtype=torch.float64), torch.tensor([1.0, 0, 0, 0])
    straight = (x - source) / sigma[:, None, None]  # leads to the source within sigma
    velocity = (straight + v).requires_grad_()  # equally wrong at both steps
    for scaled, late in ((sigma, 1.0), (None, (0.1 / 0.9) ** 2)):
        velocity.grad = None
        source_anchored_background(x - sigma[:, None, None] * velocity, source, mask, sigma=scaled).backward()
        early = velocity.grad[0, 1:].norm()
        assert early > 0 and velocity.grad[1, 1:].norm() / early == pytest.approx(late)
        assert not velocity.grad[:, 0].any()
    velocity.grad = None
    source_anchored_background(x - sigma[:, None, None] * velocity, source, mask, sigma=sigma).backward()
    want = 2 * v[0, 1:].expand(2, -1, -1) / (2 * 3 * 3)
    torch.testing.assert_close(velocity.grad[:, 1:], want)


def test_tolerance_is_a_hinge_per_token():
    x = torch.zeros(1, 2, 2, dtype=torch.float64)
    x[0, 0], x[0, 1] = 0.1, 1.0
    x.requires_grad_()
    loss = source_anchored_background(x, torch.zeros(2, 2), torch.zeros(2), tolerance=0.25)
    assert loss.item() == pytest.approx((1.0 - 0.25) / 2)
    loss.backward()
    assert x.grad[0, 0].tolist() == [0.0, 0.0] and x.grad[0, 1].tolist() == [0.5, 0.5]


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_velocity_anchor_equals_the_formula_written_as_loops(batch, tokens, channels, seed):
    v, reference = (
        latents(batch, tokens, channels, seed=seed),
        latents(batch, tokens, channels, seed=seed + 1),
    )
    mask = soft_or_hard_mask(tokens, seed)
    everywhere = background = weight = 0.0
    for b in range(batch):
        for u in range(tokens):
            for c in range(channels):
                q = (v[b, u, c].item() - reference[b, u, c].item()) ** 2
                everywhere += q
                background += (1 - mask[u].item()) * q
                weight += 1 - mask[u].item()
    got = velocity_anchor(v, reference, mask)
    assert got.item() == pytest.approx(everywhere / (batch * tokens * channels), rel=1e-10)
    got = velocity_anchor(v, reference, mask, where="background")
    assert got.item() == pytest.approx(background / weight, rel=1e-10)
    inside = sum(
        mask[u].item() * (v[b, u, c].item() - reference[b, u, c].item()) ** 2
        for b in range(batch)
        for u in range(tokens)
        for c in range(channels)
    )
    expected = inside / (batch * channels * mask.sum().item()) if mask.sum() > 0 else 0.0
    assert velocity_anchor(v, reference, mask, where="edit").item() == pytest.approx(expected, rel=1e-10)


def test_constants_get_no_gradient():
    v, reference = latents(1, 3, 2).requires_grad_(), latents(1, 3, 2, seed=1).requires_grad_()
    source = latents(3, 2, seed=2).requires_grad_()
    mask = torch.tensor([0.0, 1.0, 0.0])
    (velocity_anchor(v, reference, mask) + source_anchored_background(v, source, mask)).backward()
    assert v.grad is not None and reference.grad is None and source.grad is None


def test_full_mask_is_a_zero_that_adds_to_a_loss_without_touching_its_gradient():
    x = latents(2, 3, 2).requires_grad_()
    full = torch.ones(3)
    zero = source_anchored_background(x, torch.zeros(3, 2), full) + velocity_anchor(
        x, torch.zeros(2, 3, 2), full, where="background"
    )
    assert zero.item() == 0.0 and not zero.requires_grad
    (x.sum() + zero).backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))
    assert velocity_anchor(x, torch.zeros(2, 3, 2), full).item() > 0


def test_half_precision_is_reduced_in_float32():
    x = latents(1, 64, 64).bfloat16()
    got = source_anchored_background(x, torch.zeros(64, 64), torch.zeros(64))
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(x.double().square().mean().item(), rel=1e-5)


def test_faults_are_sentences():
    x, mask = latents(2, 3, 2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"x0_hat must be \[B, N, C\] and source \[N, C\]"):
        source_anchored_background(x, x, mask)
    with pytest.raises(ValueError, match="tolerance must not be negative"):
        source_anchored_background(x, x[0], mask, tolerance=-0.1)
    with pytest.raises(ValueError, match=r"shape \[3\], got \[2\]"):
        source_anchored_background(x, x[0], mask[:2])
    for sigma in (torch.ones(3), torch.tensor([0.5, 0.0])):
        with pytest.raises(ValueError, match=r"sigma must be \[2\], above 0"):
            source_anchored_background(x, x[0], mask, sigma=sigma)
    with pytest.raises(ValueError, match=r"same shape \[B, N, C\]"):
        velocity_anchor(x, x[:1], mask)
    with pytest.raises(ValueError, match="where must be one of everywhere, background, edit, got 'edges'"):
        velocity_anchor(x, x, mask, where="edges")


@pytest.mark.parametrize(("batch", "tokens", "channels", "seed"), [(1, 1, 1, 0), (3, 7, 5, 1), (2, 12, 3, 2)])
def test_undone_edit_equals_the_formula_written_as_loops(batch, tokens, channels, seed):
    rng = torch.Generator().manual_seed(seed)
    clean, base = (torch.randn(batch, tokens, channels, generator=rng, dtype=torch.float64) for _ in range(2))
    source = torch.randn(tokens, channels, generator=rng, dtype=torch.float64)
    mask = torch.rand(tokens, generator=rng, dtype=torch.float64)
    expected = 0.0
    for b in range(batch):
        moved = size = 0.0
        for n in range(tokens):
            for c in range(channels):
                back = float(source[n, c] - base[b, n, c])
                moved += float(mask[n]) * float(clean[b, n, c] - base[b, n, c]) * back
                size += float(mask[n]) * (back**2 + UNEDITED)
        expected += (moved / size) ** 2 / batch
    assert undone_edit(clean, base, source, mask).item() == pytest.approx(expected, rel=1e-12)


def test_undone_edit_is_the_share_of_the_way_back_to_the_source():
    rng = torch.Generator().manual_seed(0)
    base, source = torch.randn(2, 6, 4, generator=rng), torch.randn(6, 4, generator=rng)
    mask = torch.tensor([1.0, 1, 0, 1, 0, 0])
    for share in (0.0, 0.3, 1.0, -0.2):
        clean = base + share * (source - base)
        assert undone_edit(clean, base, source, mask).item() == pytest.approx(share**2, rel=5e-3, abs=1e-12)
    # What happens outside the mask, or across the way back, is another term's business.
    outside = base + (mask == 0)[:, None] * (source - base)
    assert undone_edit(outside, base, source, mask).item() == 0
    back = (source - base) * mask[:, None]
    across = torch.randn(2, 6, 4, generator=rng) * mask[:, None]
    across -= back * (across * back).sum((1, 2), keepdim=True) / back.square().sum((1, 2), keepdim=True)
    assert undone_edit(base + across, base, source, mask).item() == pytest.approx(0, abs=1e-12)


def test_where_the_base_edits_nothing_nothing_is_undone():
    rng = torch.Generator().manual_seed(0)
    base, mask = torch.randn(2, 6, 4, generator=rng), torch.ones(6)
    clean = (base + 0.1 * torch.randn(2, 6, 4, generator=rng)).requires_grad_()
    value = undone_edit(clean, base[:1].expand(2, -1, -1), base[0], mask)
    value.backward()
    assert value.item() < 1e-3 and clean.grad.abs().max() < 1
    assert undone_edit(clean, base, base[0], torch.zeros(6)).item() == 0


def test_shapes_of_undone_edit_are_checked():
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=r"must be \[B, N, C\]"):
        undone_edit(x, x[:1], x[0], torch.ones(3))
