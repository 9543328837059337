"""Tests of rewards.regions: a reward per candidate and region."""

import numpy as np
import pytest

from configs.rewards import RewardsConfig
from rewards.compose import compose
from rewards.regions import composed_by_region
from tests.rewards.test_compose import scored

WEIGHTS = {"edit_score": 1.0, "edit_psnr": 0.05, "background_psnr": 0.1, "background_ssim": 2.0}


def config(**over) -> RewardsConfig:
    return RewardsConfig(weights=WEIGHTS, **over)


def group(edit, psnr, background, ssim):
    return scored({"edit_score": edit, "edit_psnr": psnr, "background_psnr": background, "background_ssim": ssim})


@pytest.mark.parametrize("normalisation", ["none", "pooled", "minibatch"])
def test_every_region_is_composed_of_its_own_components(normalisation):
    groups = [
        group([0.1, 0.9, 0.5], [20.0, 21.0, 25.0], [30.0, 28.0, 29.0], [0.8, 0.9, 0.7]),
        group([0.3, 0.2, 0.6], [19.0, 18.0, 22.0], [31.0, 25.0, 26.0], [0.6, 0.95, 0.9]),
    ]
    got = composed_by_region(groups, config(normalisation=normalisation, regions={"background_ssim": "hat"}))
    assert list(got) == ["edit", "background", "hat"]
    for region, weights in (
        ("edit", {"edit_score": 1.0, "edit_psnr": 0.05}),
        ("background", {"background_psnr": 0.1}),
        ("hat", {"background_ssim": 2.0}),
    ):
        for one, same in zip(got[region], compose(groups, weights, normalisation), strict=True):
            np.testing.assert_array_equal(one.rewards, same.rewards)
            assert one.valid.all()


def test_a_candidate_that_lacks_one_score_is_invalid_in_every_region():
    got = composed_by_region(
        [group([0.1, 0.9, None, 0.4], [20.0, 21.0, 25.0, 22.0], [30.0, 28.0, 29.0, None], [0.8, 0.9, 0.7, 0.6])],
        config(),
    )
    for (one,) in got.values():
        assert one.valid.tolist() == [True, True, False, False]
        assert one.rewards[2:].tolist() == [0, 0] and one.rewards[:2].any()


def test_a_region_whose_rewards_hardly_vary_is_filtered_alone():
    flat_edit = group([0.5] * 3, [20.0] * 3, [30.0, 28.0, 29.0], [0.8, 0.9, 0.7])
    ((edit,), (background,)) = composed_by_region([flat_edit], config(min_std=0.01)).values()
    assert not edit.filtered and edit.rewards.std() == 0  # does not vary at all, so that its advantages are zero anyway
    assert not background.filtered and background.rewards.std() > 0
    little = group([0.5, 0.505, 0.5], [20.0] * 3, [30.0, 28.0, 29.0], [0.8, 0.9, 0.7])
    ((edit,), (background,)) = composed_by_region([little], config(min_std=0.01)).values()
    assert edit.filtered and not background.filtered
    # Below its floor a component counts as equal, here too.
    noise = group([0.5, 0.5005, 0.5], [20.0] * 3, [30.0, 28.0, 29.0], [0.8, 0.9, 0.7])
    ((edit,), _) = composed_by_region([noise], config()).values()
    assert edit.rewards.std() == 0 and edit.floored == ("edit_score",)
