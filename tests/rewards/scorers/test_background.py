"""The pixel scorers at the edges of what a mask can be."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchmetrics.functional import image as metrics

from editing.task import TaskError
from rewards.scorers.pixel_consistency import pixel_consistency
from rewards.scorers.psnr import background_psnr
from rewards.scorers.ssim import background_ssim
from tests.rewards.scorers.test_editscore import given_of


def with_mask(given, mask):
    return replace(given, task=replace(given.task, edit_mask=mask))


@pytest.mark.parametrize("scorer", [background_psnr, background_ssim, pixel_consistency])
def test_a_full_mask_leaves_nothing_to_measure(scorer):
    given = given_of(3, 11, 13)
    got = scorer(with_mask(given, np.ones((11, 13), dtype=bool)))
    assert got == got[:1] * 3 and got[0].value is None
    assert scorer.__name__ in got[0].error and "task t has an edit mask over the whole image" in got[0].error


@pytest.mark.parametrize("scorer", [background_psnr, background_ssim, pixel_consistency])
def test_one_pixel_that_is_left_is_measured(scorer):
    given = given_of(2, 11, 13)
    mask = np.ones((11, 13), dtype=bool)
    mask[10, 0] = False
    given.images[1, 10, 0] = given.task.source[10, 0]
    first, second = (one.value for one in scorer(with_mask(given, mask)))
    assert first < second == (60.0 if scorer is background_psnr else pytest.approx(1.0))


@pytest.mark.parametrize(
    ("scorer", "reference"),
    [
        (background_psnr, metrics.peak_signal_noise_ratio),
        (background_ssim, metrics.structural_similarity_index_measure),
    ],
)
def test_an_empty_mask_measures_the_whole_image(scorer, reference):
    """No task has one (it would ask for no edit), so this is the scorer's own promise, by a mask put in afterwards."""
    given = given_of(2, 23, 17)
    empty = np.zeros((23, 17), dtype=bool)
    with pytest.raises(TaskError, match="no editable pixel"):
        with_mask(given, empty)
    object.__setattr__(given.task, "edit_mask", empty)
    source = torch.tensor(given.task.source / 255).permute(2, 0, 1)[None]
    for image, one in zip(given.images, scorer(given), strict=True):
        want = reference(torch.tensor(image / 255).permute(2, 0, 1)[None], source, data_range=1.0)
        assert one.value == pytest.approx(want.item(), abs=1e-4)


@pytest.mark.parametrize("noise", [0.001, 0.05, 0.2])
def test_pixel_consistency_is_its_formula_and_perfect_from_40_db(noise):
    given = given_of(2, 23, 17)
    mask = np.zeros((23, 17), dtype=bool)
    mask[:5, :7] = True
    given = with_mask(given, mask)
    away = np.random.default_rng(0).normal(size=given.images.shape) * noise * 255
    given.images[:] = np.clip(given.task.source + away, 0, 255).round()
    given.images[0] = given.task.source  # its PSNR is 60 dB
    for image, got in zip(given.images, pixel_consistency(given), strict=True):
        error = np.square(image[~mask] / 255 - given.task.source[~mask] / 255).mean()
        psnr = min(-10 * np.log10(max(error, 1e-6)) / 40, 1.0)
        (ssim,) = background_ssim(replace(given, images=image[None]))
        assert got.value == pytest.approx(0.7 * ssim.value + 0.3 * psnr, abs=1e-6)
    assert pixel_consistency(given)[0].value == 1.0 > pixel_consistency(given)[1].value
