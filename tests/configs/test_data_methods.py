"""Methods that learn from given images ask for no reward, and say what does not go with them."""

import pytest

from configs.data_methods import DpoConfig, SftConfig
from configs.edit_signal import check_edit_signal, edit_rewards
from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import RunConfig

KINDS = ("sft", "dpo")


@pytest.mark.parametrize("kind", KINDS)
def test_the_type_alone_is_enough_on_any_data(kind):
    for more in ([], ["--data.type", "manifest", "--data.path", "m.jsonl"]):
        config = load_config(["--algorithm.type", kind, *more])
        check_edit_signal(config)
        assert config.rewards.weights == {"rank": 1.0} and edit_rewards(config.rewards) == ()
        assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    assert RunConfig(algorithm={"sft": SftConfig(), "dpo": DpoConfig()}[kind]).rewards.weights == {"rank": 1.0}


def test_groups_are_as_large_as_what_is_given():
    assert [load_config(["--algorithm.type", kind]).group_size for kind in KINDS] == [1, 2]
    assert [load_config(["--algorithm.type", kind]).min_valid for kind in KINDS] == [1, 2]
    other = load_config(["--rewards.min_valid", "5"])
    assert (other.group_size, other.min_valid) == (8, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_is_refused_since_nothing_would_use_it(kind):
    with pytest.raises(
        ConfigError, match=rf"rewards.weights: expected rank alone with algorithm.type {kind}.*edit_psnr"
    ):
        load_config(["--algorithm.type", kind, "--rewards.weights", "{edit_psnr: 1}"])
    way_out = ["--config", "my_images", "--algorithm.type", kind, "--rewards.weights", "{rank: 1}"]
    assert load_config(way_out).rewards.weights == {"rank": 1.0}


def test_the_rank_is_no_reward_for_rollouts():
    with pytest.raises(ConfigError, match=r"rewards.weights: rank is the place of a given image.*remove rank"):
        load_config(["--rewards.weights.rank", "1"])


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_own_term_nothing_is_learnt(kind):
    flags = ["--algorithm.type", kind, "--algorithm.weight", "0"]
    with pytest.raises(
        ConfigError, match=rf"algorithm.weight: expected a weight above 0, got 0; .*{kind} learns nothing"
    ):
        check_edit_signal(load_config(flags))
    check_edit_signal(load_config([*flags, "--algorithm.preservation.velocity_weight", "1"]))


def test_a_pair_goes_through_the_transformer_together():
    with pytest.raises(ConfigError, match=r"editor.micro_batch: expected at least 2 with algorithm.type dpo.*got 1"):
        load_config(["--algorithm.type", "dpo", "--editor.micro_batch", "1"])
    for kind, size in (("dpo", "2"), ("sft", "1")):
        load_config(["--algorithm.type", kind, "--editor.micro_batch", size])


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_rollouts_and_advantages_are_unknown_to_it(kind):
    for key in ("alpha_edit", "anchors", "advantage.clip"):
        with pytest.raises(ConfigError, match=rf"algorithm\.{key.split('.')[0]}"):
            load_config(["--algorithm.type", kind, f"--algorithm.{key}", "1"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_for_the_background_is_refused_since_given_images_do_not_follow_the_weights(kind):
    keys = ["--algorithm.preservation.background_target", "30", "--algorithm.preservation.background_weight", "0.2"]
    with pytest.raises(ConfigError, match=rf"background_target: expected none with algorithm.type {kind}, got 30"):
        load_config(["--algorithm.type", kind, *keys])
