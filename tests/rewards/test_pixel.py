import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import pixel
from rewards.pixel import (
    PSNR_CAP,
    RegionError,
    background_psnr,
    background_ssim,
    region_psnr,
    region_ssim,
)


def images(batch, height, width, seed=0, noise=20.0):
    """uint8 source [H, W, 3] with structure, and edits of it."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(40, 200, height * width).reshape(height, width, 1) + rng.normal(0, 25, (height, width, 3))
    edits = ramp + rng.normal(0, noise, (batch, height, width, 3))
    return np.clip(edits, 0, 255).astype(np.uint8), np.clip(ramp, 0, 255).astype(np.uint8)


def ragged_mask(height, width, seed=0, share=0.4):
    mask = np.random.default_rng(seed + 100).random((height, width)) < share
    mask[0, 0], mask[-1, -1] = True, False
    return mask


def psnr_by_loops(edited, source, mask):
    total = count = 0
    for y in range(source.shape[0]):
        for x in range(source.shape[1]):
            if not mask[y, x]:
                for c in range(3):
                    total += (int(edited[y, x, c]) - int(source[y, x, c])) ** 2
                    count += 1
    return math.inf if total == 0 else 10 * math.log10(255**2 * count / total)


def mirror(index, size):
    """Reflection without repeating the border pixel."""
    index = abs(index)
    return 2 * (size - 1) - index if index >= size else index


def ssim_by_loops(edited, source, mask):
    """Per kept pixel: moments over the kept pixels of its window, Gaussian-weighted, borders mirrored."""
    height, width, _ = source.shape
    a, b = edited / 255.0, source / 255.0
    values = []
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                continue
            weights, xs, ys = [], [], []
            for dy in range(-5, 6):
                for dx in range(-5, 6):
                    v, u = mirror(y + dy, height), mirror(x + dx, width)
                    if not mask[v, u]:
                        weights.append(math.exp(-(dy * dy + dx * dx) / (2 * 1.5**2)))
                        xs.append(a[v, u])
                        ys.append(b[v, u])
            w = np.array(weights)[:, None] / sum(weights)
            p, q = np.array(xs), np.array(ys)
            mp, mq = (w * p).sum(0), (w * q).sum(0)
            vp, vq, cov = (
                (w * (p - mp) ** 2).sum(0),
                (w * (q - mq) ** 2).sum(0),
                (w * (p - mp) * (q - mq)).sum(0),
            )
            c1, c2 = 1e-4, 9e-4
            values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


@given(st.integers(1, 3), st.integers(1, 7), st.integers(2, 7), st.integers(0, 99))
def test_psnr_equals_the_sum_over_kept_pixels_and_channels(batch, height, width, seed):
    edited, source = images(batch, height, width, seed)
    mask = ragged_mask(height, width, seed)
    got = background_psnr(edited, source, mask)
    assert got.shape == (batch,) and got.dtype == torch.float32
    want = [min(PSNR_CAP, psnr_by_loops(one, source, mask)) for one in edited]
    assert got.tolist() == pytest.approx(want, abs=1e-4)
    assert torch.equal(region_psnr(edited, source, ~mask), got)


@pytest.mark.parametrize(("height", "width"), [(6, 9), (13, 8), (16, 17)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_ssim_equals_brute_force_on_ragged_masks(height, width, share):
    edited, source = images(2, height, width, seed=3)
    mask = ragged_mask(height, width, seed=4, share=share)
    want = [ssim_by_loops(one, source, mask) for one in edited]
    assert background_ssim(edited, source, mask).tolist() == pytest.approx(want, abs=1e-6)
    assert torch.equal(region_ssim(edited, source, ~mask), background_ssim(edited, source, mask))


@settings(max_examples=20)
@given(st.integers(6, 30), st.integers(6, 30), st.floats(0, 90), st.integers(0, 99))
def test_both_equal_torchmetrics_when_everything_is_kept(height, width, noise, seed):
    metrics = pytest.importorskip("torchmetrics.functional.image")
    edited, source = images(2, height, width, seed, noise)
    nothing = np.zeros((height, width), dtype=bool)
    a = torch.tensor(edited).permute(0, 3, 1, 2).double() / 255
    b = torch.tensor(source).permute(2, 0, 1).double()[None] / 255
    for k in range(2):
        psnr = metrics.peak_signal_noise_ratio(a[k : k + 1], b, data_range=1.0).item()
        assert background_psnr(edited, source, nothing)[k].item() == pytest.approx(min(psnr, PSNR_CAP), abs=1e-4)
        ssim = metrics.structural_similarity_index_measure(a[k : k + 1], b, data_range=1.0).item()
        assert background_ssim(edited, source, nothing)[k].item() == pytest.approx(ssim, abs=1e-6)


def test_what_happens_inside_the_mask_has_no_influence_at_all():
    edited, source = images(1, 20, 18, seed=5)
    mask = ragged_mask(20, 18, seed=6)
    changed, other_source = edited.copy(), source.copy()
    changed[:, mask], other_source[mask] = 255 - changed[:, mask], 7
    for measure in (background_psnr, background_ssim):
        assert torch.equal(measure(changed, other_source, mask), measure(edited, source, mask))
    assert not torch.equal(region_psnr(changed, source, mask), region_psnr(edited, source, mask))


def test_identical_images_reach_the_cap_and_one():
    _, source = images(1, 12, 12)
    same = np.stack([source, source])
    mask = ragged_mask(12, 12)
    assert background_psnr(same, source, mask).tolist() == [PSNR_CAP, PSNR_CAP]
    assert background_ssim(same, source, mask).tolist() == pytest.approx([1.0, 1.0], abs=1e-7)


def test_masked_ssim_falls_with_noise_as_plain_ssim_does():
    """A window count in the place of the filtered mask gives .998 / .982 here (method.md 3.1)."""
    measured = []
    for noise in (0.03, 0.10):
        edited, source = images(1, 32, 32, seed=7, noise=255 * noise)
        mask = np.zeros((32, 32), dtype=bool)
        everywhere = background_ssim(edited, source, mask).item()
        mask[8:20, 8:20] = True
        assert background_ssim(edited, source, mask).item() == pytest.approx(everywhere, abs=0.05)
        measured.append(everywhere)
    assert measured[1] < measured[0] - 0.05


def test_floating_point_and_integer_images_arrays_and_tensors_agree():
    edited, source = images(2, 11, 9, seed=8)
    mask = ragged_mask(11, 9)
    source.setflags(write=False)
    mask.setflags(write=False)
    for measure in (background_psnr, background_ssim):
        want = measure(edited, source, mask)
        assert torch.equal(measure(torch.tensor(edited), torch.tensor(source), torch.tensor(mask)), want)
        torch.testing.assert_close(
            measure((edited / 255).astype(np.float32), source / 255, mask), want, rtol=1e-5, atol=1e-5
        )


def test_large_images_that_are_measured_piece_by_piece_are_measured_alike(monkeypatch):
    edited, source = images(2, 24, 31, seed=8)
    mask = ragged_mask(24, 31, seed=8)
    together, ratio = background_ssim(edited, source, mask), background_psnr(edited, source, mask)
    filtered = []
    smooth = pixel._smooth
    monkeypatch.setattr(pixel, "_smooth", lambda maps: (filtered.append(maps.shape[:2]), smooth(maps))[1])
    for cache, least, shapes in (
        (24 * 31 * 2, 64, {(1, 34), (2, 34)}),
        (1, 64, {(1, 34)}),
        (1, 7, {(1, 17), (1, 13)}),
        (31 * 10, 1, {(1, 20), (1, 14)}),
        (1, 1, {(1, 11)}),
    ):
        monkeypatch.setattr(pixel, "_CACHE", cache)
        monkeypatch.setattr(pixel, "_LEAST_ROWS", least)
        filtered.clear()
        torch.testing.assert_close(background_psnr(edited, source, mask), ratio, rtol=1e-7, atol=0)
        torch.testing.assert_close(background_ssim(edited, source, mask), together, rtol=1e-7, atol=0)
        assert set(filtered) == shapes


def test_one_kept_pixel_is_measured():
    edited, source = images(1, 8, 8, seed=9)
    mask = np.ones((8, 8), dtype=bool)
    mask[3, 4] = False
    assert background_psnr(edited, source, mask).item() == pytest.approx(
        psnr_by_loops(edited[0], source, mask), abs=1e-4
    )
    assert background_ssim(edited, source, mask).item() == pytest.approx(
        ssim_by_loops(edited[0], source, mask), abs=1e-6
    )


def test_faults_are_sentences():
    edited, source = images(2, 8, 8)
    full, mask = np.ones((8, 8), dtype=bool), ragged_mask(8, 8)
    for measure in (background_psnr, background_ssim):
        with pytest.raises(RegionError, match="no pixel"):
            measure(edited, source, full)
        with pytest.raises(ValueError, match="edit_mask must be bool"):
            measure(edited, source, mask.astype(np.uint8))
        with pytest.raises(ValueError, match=r"images' size, \[8, 8\]; got \[8, 7\]"):
            measure(edited, source, mask[:, :7])
        with pytest.raises(ValueError, match=r"expected images \[B, H, W, 3\]"):
            measure(edited[0], source, mask)
        with pytest.raises(ValueError, match=r"expected images \[B, H, W, 3\]"):
            measure(edited, source[:7], mask)
        with pytest.raises(ValueError, match=r"divide 8-bit values by 255"):
            measure(edited.astype(np.float32), source, mask)
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            measure(np.full((1, 8, 8, 3), np.nan), source, mask)
        with pytest.raises(ValueError, match="must be uint8 or floating point"):
            measure(edited.astype(np.int64), source, mask)
    with pytest.raises(ValueError, match="at least 6 pixels a side"):
        background_ssim(edited[:, :5], source[:5], mask[:5])
