import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithms.credit import region_advantages
from learner.algorithms.region_credit import soft_border, token_advantages


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.booleans(), st.integers(0, 999))
def test_token_advantages_equal_brute_force_and_sum_to_zero(group, regions, tokens, soft, seed):
    advantages = region_advantages(drawn(group, regions, seed=seed))
    masks = drawn(regions, tokens, seed=seed + 1)
    masks = masks if soft else (masks < 0.5).double()
    weights = 3 * drawn(regions, seed=seed + 2)
    got = token_advantages(advantages, masks, weights)
    want = np.zeros((group, tokens))
    for i in range(group):
        for u in range(tokens):
            for r in range(regions):
                want[i, u] += weights[r].item() * masks[r, u].item() * advantages[i, r].item()
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got.sum(dim=0).numpy(), 0, atol=1e-9)
    torch.testing.assert_close(
        token_advantages(advantages, masks), token_advantages(advantages, masks, torch.ones(regions))
    )


def test_an_edit_mask_and_its_complement_are_the_adopted_edit_grpo():
    """A_i(u) = M(u) A^e_i + (1 - M(u)) w_p A^p_i."""
    mask = torch.tensor([1.0, 0.5, 0.0])
    advantages = torch.tensor([[1.0, -2.0], [-1.0, 2.0]])
    got = token_advantages(advantages, torch.stack([mask, 1 - mask]), torch.tensor([1.0, 0.5]))
    assert got.tolist() == [[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_token_advantages_are_float32_at_least_and_take_masks_of_any_dtype(dtype):
    advantages = torch.tensor([[1.0, 2.0]], dtype=dtype)
    masks = torch.tensor([[True, False, False], [False, True, False]])
    got = token_advantages(advantages, masks)
    assert got.dtype == torch.promote_types(dtype, torch.float32) and got.tolist() == [[1.0, 2.0, 0.0]]


def box_by_loops(mask: torch.Tensor, rows: int, columns: int, radius: int) -> list[float]:
    grid = mask.reshape(rows, columns).tolist()
    steps = range(-radius, radius + 1)
    found = []
    for i in range(rows):
        for j in range(columns):
            box = [grid[min(max(i + a, 0), rows - 1)][min(max(j + b, 0), columns - 1)] for a in steps for b in steps]
            found.append(sum(box) / len(box))
    return found


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.booleans(), st.integers(0, 999))
def test_the_soft_border_is_the_mean_over_a_box(rows, columns, radius, soft, seed):
    mask = drawn(rows * columns, seed=seed)
    mask = mask if soft else (mask < 0.5).double()
    got = soft_border(mask, (rows, columns), radius)
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx(box_by_loops(mask, rows, columns, radius), abs=1e-12)
    assert soft_border(mask, (rows, columns), 0).tolist() == pytest.approx(mask.tolist(), abs=0)


def test_only_the_ring_around_a_border_changes():
    mask = torch.zeros(9, 12)
    mask[3:, :5] = 1
    for radius in (1, 2):
        changed = soft_border(mask.flatten(), (9, 12), radius).reshape(9, 12) != mask
        for i in range(9):
            for j in range(12):
                around = mask[max(i - radius, 0) : i + radius + 1, max(j - radius, 0) : j + radius + 1]
                assert changed[i, j] == (around.min() < around.max())
    row = soft_border(torch.tensor([0.0, 0, 0, 1, 1, 1]), (1, 6), 1)
    assert row.tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1])


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_a_uniform_mask_has_no_border(value):
    for dtype in (torch.float16, torch.float32, torch.float64):
        mask = torch.full((35,), value, dtype=dtype)
        got = soft_border(mask, (5, 7), 2)
        torch.testing.assert_close(got, mask.to(got.dtype))
        assert got.max() <= 1 and (value == 0.1 or torch.equal(got, mask.to(got.dtype)))
    assert torch.equal(soft_border(torch.ones(35, dtype=torch.bool), (5, 7), 2), torch.ones(35))


def test_faults_are_sentences():
    advantages, regions = torch.zeros(2, 3), torch.ones(3, 5)
    for bad in ((advantages[0], regions), (advantages, regions[:2]), (advantages, regions[0])):
        with pytest.raises(ValueError, match=r"advantages must be \[G, R\] and regions \[R, N\]"):
            token_advantages(*bad)
    with pytest.raises(ValueError, match=r"regions: expected values in \[0, 1\]"):
        token_advantages(advantages, 255 * regions)
    for weights in (torch.ones(2), torch.tensor([1.0, -1.0, 1.0]), torch.tensor([1.0, math.nan, 1.0])):
        with pytest.raises(ValueError, match="weights of regions: expected 3 finite values of at least 0"):
            token_advantages(advantages, regions, weights)
    mask = torch.ones(6)
    for grid, radius in (((0, 6), 1), ((2, 3), -1)):
        with pytest.raises(ValueError, match="expected a grid of at least one token and a radius of at least 0"):
            soft_border(mask, grid, radius)
    with pytest.raises(ValueError, match=r"shape \[8\], got \[6\]"):
        soft_border(mask, (2, 4), 1)
    with pytest.raises(ValueError, match="divided by 255"):
        soft_border(255 * mask, (2, 3), 1)
