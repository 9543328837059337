import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithms.region_hinges import HingeRegions, hinge_regions, region_hinges

MASKS = ("ragged", "one token", "all tokens", "no token", "soft")


def latents(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_mask(kind: str, tokens: int, seed: int = 0) -> torch.Tensor:
    values = torch.rand(tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {
        "ragged": (values < 0.6).double(),
        "one token": (torch.arange(tokens) == tokens // 2).double(),
        "all tokens": torch.ones(tokens, dtype=torch.float64),
        "no token": torch.zeros(tokens, dtype=torch.float64),
        "soft": values,
    }[kind]


@given(
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    radius=st.integers(0, 3),
    ring_weight=st.sampled_from([0.0, 0.2, 1.0]),
    kind=st.sampled_from(MASKS),
    seed=st.integers(0, 99),
)
def test_regions_equal_the_formula_written_as_loops(grid, radius, ring_weight, kind, seed):
    rows, columns = grid
    mask = make_mask(kind, rows * columns, seed)
    got = hinge_regions(mask, grid, radius, ring_weight)
    assert got.edit.shape == got.background.shape == mask.shape and got.edit.dtype == torch.float64
    for i in range(rows):
        for j in range(columns):
            near = [
                mask[y * columns + x].item()
                for y in range(max(0, i - radius), min(rows, i + radius + 1))
                for x in range(max(0, j - radius), min(columns, j + radius + 1))
            ]
            edit, background = min(near), 1 - max(near)
            ring = 1 - edit - background
            u = i * columns + j
            assert got.edit[u].item() == pytest.approx(edit + ring_weight * ring, abs=1e-12)
            assert got.background[u].item() == pytest.approx(background + ring_weight * ring, abs=1e-12)


def test_regions_of_the_docstring():
    got = hinge_regions(torch.tensor([0.0, 0, 0, 1, 1, 1]), (1, 6), 1, 0.2)
    assert got.edit.tolist() == pytest.approx([0, 0, 0.2, 0.2, 1, 1])
    assert got.background.tolist() == pytest.approx([1, 1, 0.2, 0.2, 0, 0])


def test_one_packed_token_is_two_latents_of_released_code():
    """Radius 2 on unpacked latents, averaged over the 2 x 2 of a token, is radius 1 on tokens."""
    mask = torch.zeros(6, 9)
    mask[2:5, 3:8] = 1
    ours = hinge_regions(mask.reshape(-1), (6, 9), 1, 0.2)
    fine = mask.repeat_interleave(2, 0).repeat_interleave(2, 1)
    theirs = hinge_regions(fine.reshape(-1), (12, 18), 2, 0.2)
    for name in ("edit", "background"):
        packed = getattr(theirs, name).reshape(6, 2, 9, 2).mean(dim=(1, 3)).reshape(-1)
        torch.testing.assert_close(packed, getattr(ours, name))


@given(
    batch=st.integers(1, 3),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.integers(1, 3),
    kind=st.sampled_from(MASKS),
    taus=st.sampled_from([(1e-3, 3e-2), (0.5, 4.0), (2.0, 1.0), (0.0, 0.0)]),
    per_sample=st.booleans(),
    seed=st.integers(0, 99),
)
def test_hinges_equal_the_formula_written_as_loops(batch, grid, channels, kind, taus, per_sample, seed):
    tokens = grid[0] * grid[1]
    positive, negative = (latents(batch, tokens, channels, seed=10 * seed + k) for k in range(2))
    references = [latents(batch, tokens, channels, seed=10 * seed + k) for k in (2, 3)]
    if not per_sample:
        references = [one[0] for one in references]
    regions = hinge_regions(make_mask(kind, tokens, seed), grid)
    got = region_hinges(positive, negative, *references, regions, *taus)

    def distance(x, reference, weights, b):
        other = reference[b] if per_sample else reference
        total = sum(
            weights[u].item() * (x[b, u, c].item() - other[u, c].item()) ** 2
            for u in range(tokens)
            for c in range(channels)
        )
        size = channels * sum(weights.tolist())
        return total / size if size else None

    for b in range(batch):
        off = distance(positive, references[0], regions.background, b)
        changed = distance(negative, references[1], regions.edit, b)
        want = 0.0 if off is None else max(0.0, off - taus[0])
        assert got.background[b].item() == pytest.approx(want, rel=1e-9, abs=1e-12)
        want = 0.0 if changed is None else max(0.0, taus[1] - changed)
        assert got.edit[b].item() == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_gradients_pull_the_background_in_and_push_the_edit_off():
    reference = torch.zeros(4, 1, dtype=torch.float64)
    x = torch.tensor([1.0, 0.1, 0.1, 1.0], dtype=torch.float64).reshape(1, 4, 1)
    positive, negative = x.clone().requires_grad_(), x.clone().requires_grad_()
    regions = HingeRegions(edit=torch.tensor([0.0, 1, 1, 0]), background=torch.tensor([1.0, 0, 0, 1]))
    hinges = region_hinges(positive, negative, reference, reference, regions)
    assert hinges.background.item() == pytest.approx(1 - 1e-3) and hinges.edit.item() == pytest.approx(0.03 - 0.01)
    (hinges.background + hinges.edit).sum().backward()
    assert positive.grad.flatten().tolist() == pytest.approx([1.0, 0.0, 0.0, 1.0])
    assert negative.grad.flatten().tolist() == pytest.approx([0.0, -0.1, -0.1, 0.0])


@pytest.mark.parametrize(("mask", "name"), [(torch.zeros(6), "edit"), (torch.ones(6), "background")])
def test_an_empty_region_costs_nothing_and_pulls_nothing(mask, name):
    x = latents(2, 6, 2).requires_grad_()
    hinges = region_hinges(x, x, x.detach(), torch.zeros(6, 2), hinge_regions(mask, (2, 3)), 0.0, 1e9)
    value = getattr(hinges, name)
    value.sum().backward()
    assert value.tolist() == [0.0, 0.0] and torch.equal(x.grad, torch.zeros_like(x))


def test_half_precision_is_reduced_in_float32_and_constants_get_no_gradient():
    x, source = latents(1, 16, 64).half().requires_grad_(), latents(16, 64, seed=1).half().requires_grad_()
    regions = hinge_regions(make_mask("ragged", 16).half(), (4, 4))
    assert regions.edit.dtype == torch.float32
    hinges = region_hinges(x, x, source, source, regions, 0.0, 9.0)
    assert hinges.background.dtype == hinges.edit.dtype == torch.float32
    (hinges.background + hinges.edit).sum().backward()
    assert x.grad is not None and source.grad is None


def test_faults_are_sentences():
    x, mask = latents(2, 6, 3), torch.zeros(6)
    regions = hinge_regions(mask, (2, 3))
    with pytest.raises(ValueError, match=r"shape \[8\], got \[6\]"):
        hinge_regions(mask, (2, 4))
    with pytest.raises(ValueError, match="at least one row and one column"):
        hinge_regions(mask, (0, 6))
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\], 1 = editable"):
        hinge_regions(mask + 2, (2, 3))
    for radius, ring_weight in ((-1, 0.2), (1, 1.1), (1, math.nan)):
        with pytest.raises(ValueError, match=r"expected radius >= 0 and ring_weight in \[0, 1\]"):
            hinge_regions(mask, (2, 3), radius, ring_weight)
    with pytest.raises(ValueError, match="positive and negative must have the same shape"):
        region_hinges(x, x[:1], x, x, regions)
    with pytest.raises(ValueError, match=r"references \[N, C\] or \[B, N, C\]"):
        region_hinges(x, x, x[:1], x, regions)
    for tau in (-1.0, math.nan):
        with pytest.raises(ValueError, match="thresholds must not be negative"):
            region_hinges(x, x, x, x, regions, tau)
