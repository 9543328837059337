import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing.attention import attention_concentration, attention_map


def explicit(query, key, mask, valid):
    """Eq. 16-18 in float64 loops: a(u) summed over valid text tokens, heads averaged; ratio of means."""
    query, key = query.double(), key.double()
    batch, heads, words, dim = query.shape
    tokens = key.shape[2]
    result = []
    for b in range(batch):
        attention = torch.zeros(tokens, dtype=torch.float64)
        for v in range(words):
            if not valid[b, v]:
                continue
            for h in range(heads):
                logits = [(query[b, h, v] * key[b, h, u]).sum().item() / math.sqrt(dim) for u in range(tokens)]
                top = max(logits)
                row = torch.tensor([math.exp(x - top) for x in logits], dtype=torch.float64)
                attention += row / row.sum() / heads
        m = (mask if mask.ndim == 1 else mask[b]).double()
        result.append(((attention * m).sum() / m.sum()) / (attention.sum() / tokens))
    return torch.stack(result)


def inputs(batch, heads, words, tokens, dim, seed, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    query = (2 * torch.randn(batch, heads, words, dim, generator=g)).to(dtype)
    key = (2 * torch.randn(batch, heads, tokens, dim, generator=g)).to(dtype)
    valid = torch.rand(batch, words, generator=g) < 0.6
    valid[:, 0] = True
    mask = torch.rand(batch, tokens, generator=g) < 0.4
    mask[:, -1] = True
    return query, key, mask, valid


@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 8),
    st.integers(0, 999),
)
def test_concentration_equals_the_explicit_softmax(batch, heads, words, tokens, dim, seed):
    query, key, mask, valid = inputs(batch, heads, words, tokens, dim, seed)
    got = attention_concentration(query, key, mask, valid)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), explicit(query, key, mask, valid), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 12, 64, 32), (1, 4, 17, 150, 128), (2, 2, 5, 33, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_concentration_at_model_shapes_for_both_dtypes_and_the_models_layout(shape, dtype):
    query, key, mask, valid = inputs(*shape, seed=1, dtype=dtype)
    want = explicit(query, key, mask, valid)
    torch.testing.assert_close(attention_concentration(query, key, mask, valid).double(), want, rtol=1e-5, atol=1e-5)
    # Models hold [B, tokens, H, D] and hand out a transposed view.
    strided = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (query, key)]
    torch.testing.assert_close(attention_concentration(*strided, mask, valid).double(), want, rtol=1e-5, atol=1e-5)


def test_one_mask_for_all_samples_and_soft_masks():
    query, key, mask, valid = inputs(3, 2, 4, 10, 8, seed=2)
    soft = torch.rand(10, generator=torch.Generator().manual_seed(3))
    for shared in (mask[0], mask[0].float(), soft):
        got = attention_concentration(query, key, shared, valid)
        torch.testing.assert_close(got.double(), explicit(query, key, shared, valid), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got, attention_concentration(query, key, shared.expand(3, 10), valid))


def test_range_ends():
    """One where attention is even or the mask is full; N / |M| where all of it falls inside the mask."""
    key = torch.zeros(1, 1, 8, 4)
    query = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(4))
    valid = torch.ones(1, 3, dtype=torch.bool)
    mask = torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0])
    assert attention_concentration(query, key, mask, valid).item() == pytest.approx(1.0, abs=1e-6)
    key[..., :2, 0] = 1000.0
    query[..., 0] = 1.0
    assert attention_concentration(query, key, mask, valid).item() == pytest.approx(4.0, abs=1e-5)
    assert attention_concentration(query, key, 1 - mask, valid).item() == pytest.approx(0.0, abs=1e-6)
    assert attention_concentration(query, key, torch.ones(8), valid).item() == pytest.approx(1.0, abs=1e-6)


def test_padding_text_has_no_influence():
    query, key, mask, valid = inputs(2, 2, 6, 12, 8, seed=5)
    valid[:, 3:] = False
    loud = query.clone()
    loud[:, :, 3:] = 50 * torch.randn(2, 2, 3, 8, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(
        attention_concentration(loud, key, mask, valid), attention_concentration(query, key, mask, valid)
    )
    assert not torch.allclose(
        attention_concentration(loud, key, mask, torch.ones_like(valid)),
        attention_concentration(query, key, mask, valid),
        rtol=1e-3,
    )
    torch.testing.assert_close(attention_map(loud, key, valid), attention_map(query, key, valid))


def test_map_is_a_distribution_whose_mass_in_the_mask_is_the_concentration():
    query, key, mask, valid = inputs(3, 4, 7, 20, 16, seed=7)
    attention = attention_map(query, key, valid)
    assert attention.shape == (3, 20)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(3))
    inside = 20 / mask.sum(dim=1) * (attention * mask).sum(dim=1)
    torch.testing.assert_close(inside, attention_concentration(query, key, mask, valid), rtol=1e-5, atol=1e-5)


def test_faults_are_sentences():
    query, key, mask, valid = inputs(2, 2, 4, 10, 8, seed=8)
    blank = valid.clone()
    blank[1] = False
    with pytest.raises(ValueError, match=r"at least one valid text token.*sample\(s\) \[1\]"):
        attention_concentration(query, key, mask, blank)
    with pytest.raises(ValueError, match="at least one valid text token"):
        attention_map(query, key, blank)
    with pytest.raises(ValueError, match="no editable token"):
        attention_concentration(query, key, torch.zeros(10), valid)
    half_empty = mask.clone()
    half_empty[0] = False
    with pytest.raises(ValueError, match="no editable token"):
        attention_concentration(query, key, half_empty, valid)
    with pytest.raises(ValueError, match=r"edit_mask: expected \[10\] or \[2, 10\], got \[3, 10\]"):
        attention_concentration(query, key, torch.ones(3, 10), valid)
    with pytest.raises(ValueError, match=r"edit_mask: expected \[10\] or \[2, 10\], got \[20\]"):
        attention_concentration(query, key, torch.ones(20), valid)
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\]"):
        attention_concentration(query, key, 255 * torch.ones(10), valid)
    with pytest.raises(ValueError, match="same B, H and D"):
        attention_concentration(query[:, :1], key, mask, valid)
    with pytest.raises(ValueError, match=r"text_valid: expected \[B, V\] = \[2, 4\], got \[2, 10\]"):
        attention_concentration(query, key, mask, mask)


def test_a_text_mask_of_other_values_is_refused():
    query, key, mask, valid = inputs(1, 2, 4, 6, 8, seed=1)
    with pytest.raises(ValueError, match="text_valid: expected 0 or 1"):
        attention_concentration(query, key, mask, valid.float() * 0.5)


@pytest.mark.parametrize("scale", [1e10, 1e18, 1e20, 1e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_huge_queries_and_keys_give_a_finite_concentration(scale, dtype):
    """As in float64, which the products of any two float32 numbers fit into."""
    query, key, mask, valid = inputs(1, 2, 4, 6, 8, seed=1, dtype=dtype)
    query, key = (scale * (one / one.abs().max()) for one in (query, key))
    got, shown = attention_concentration(query, key, mask, valid), attention_map(query, key, valid)
    assert got.dtype == shown.dtype == torch.float32
    torch.testing.assert_close(
        got, attention_concentration(query.double(), key.double(), mask, valid).float(), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(shown.sum(dim=-1), torch.ones(1))
