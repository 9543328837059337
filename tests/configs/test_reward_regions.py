"""Which region a reward belongs to, and what does not go together."""

import pytest

from configs.errors import ConfigError
from configs.load import load_config
from configs.reward_regions import named_regions, region_weights
from configs.rewards import RewardsConfig
from configs.schema import RunConfig

WEIGHTS = {"edit_score": 1.0, "acd": 0.3, "background_psnr": 0.1, "background_ssim": 0.0, "mine": 2.0}


def rewards(**over) -> RewardsConfig:
    return RewardsConfig(weights=WEIGHTS, scorers={"mine": "my_scorers:mine"}, **over)


def test_a_reward_belongs_to_the_region_of_its_kind_unless_one_is_named():
    assert region_weights(rewards()) == {
        "edit": {"edit_score": 1.0, "acd": 0.3, "mine": 2.0},
        "background": {"background_psnr": 0.1},
    }
    assert region_weights(rewards(scorer_kinds={"mine": "preservation"})) == {
        "edit": {"edit_score": 1.0, "acd": 0.3},
        "background": {"background_psnr": 0.1, "mine": 2.0},
    }
    named = region_weights(rewards(regions={"mine": "hat", "acd": "background"}))
    assert list(named) == ["edit", "background", "hat"] and named["hat"] == {"mine": 2.0}
    assert named["background"] == {"acd": 0.3, "background_psnr": 0.1}
    # A region that no reward belongs to is none.
    assert list(region_weights(RewardsConfig(weights={"edit_score": 1.0}))) == ["edit"]


def test_the_tasks_own_regions_are_wanted_only_where_credit_is_given_so():
    confined, method = rewards(regions={"mine": "hat"}), RunConfig(algorithm={"type": "edit_grpo"}).algorithm
    assert named_regions(method, confined) == ("hat",)
    assert named_regions(method, RewardsConfig()) == ()
    assert named_regions(RunConfig().algorithm, RewardsConfig()) == ()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--rewards.regions.edit_psnr", "hat"],
            "rewards.regions: expected only where credit is given per region, got algorithm.credit.per candidate",
        ),
        (
            ["--config", "edit_grpo", "--algorithm.credit.per", "candidate", "--rewards.regions.edit_psnr", "hat"],
            "rewards.regions: expected only where credit is given per region",
        ),
        (
            ["--config", "edit_grpo", "--rewards.regions.acd", "edit"],
            "rewards.regions: expected components with a weight other than 0, got 'acd'; add --rewards.weights.acd 1",
        ),
        (
            ["--config", "edit_grpo", "--algorithm.credit.weights.hat", "2"],
            "algorithm.credit.weights: expected regions that a reward belongs to (edit, background), got 'hat'",
        ),
        (
            ["--config", "edit_grpo", "--algorithm.credit.weights.background", "-1"],
            "algorithm.credit.weights.background: expected a weight of at least 0, got -1",
        ),
        (
            ["--config", "edit_grpo", "--rewards.composition", "gated"],
            "rewards.composition: expected sum with algorithm.credit.per region, got gated",
        ),
        (
            ["--algorithm.type", "rc_grpo", "--algorithm.credit.ring", "2"],
            "algorithm.credit: expected only with algorithm.type edit_grpo or",
        ),
    ],
)
def test_what_does_not_go_together_is_told_in_a_sentence(flags, sentence):
    with pytest.raises(ConfigError) as caught:
        load_config(flags)
    assert sentence in str(caught.value)
