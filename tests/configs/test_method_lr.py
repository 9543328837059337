"""The learning rate that a method brings along."""

import pytest

from configs.errors import ConfigError
from configs.load import load_config
from configs.schema import DEFAULT_LR, LearnerConfig, OptimizerConfig, RunConfig
from learner.algorithms.registry import METHODS


def lr(*flags: str) -> float:
    return load_config(list(flags)).learner.optimizer.lr


def test_every_method_has_a_rate_of_its_own():
    assert set(DEFAULT_LR) == set(METHODS) and all(rate > 0 for rate in DEFAULT_LR.values())
    for kind in set(METHODS) - {"custom"}:
        assert lr("--algorithm.type", kind) == DEFAULT_LR[kind]
    assert lr("--algorithm.type", "custom", "--algorithm.method", "m:Mine") == DEFAULT_LR["custom"]


def test_the_default_run_has_the_rate_of_its_method():
    assert RunConfig().learner.optimizer.lr == lr() == lr("--algorithm.type", "locus") == OptimizerConfig().lr
    assert OptimizerConfig().lr != lr("--algorithm.type", "rc_grpo")
    assert RunConfig() == load_config([])


def test_what_is_stated_holds_and_null_is_not_stated():
    assert lr("--algorithm.type", "flow_grpo") == lr("--config", "flow_grpo_fast") == 1e-3
    assert lr("--algorithm.type", "flow_grpo", "--learner.optimizer.lr", "null") == 1e-3
    assert lr("--algorithm.type", "flow_grpo", "--learner.optimizer.lr", "2e-3") == 2e-3
    assert lr("--config", "kontext_1gpu", "--algorithm.type", "flow_grpo") == 1e-4
    assert lr("--algorithm.type", "flow_grpo", "--learner.optimizer.warmup-steps", "5") == 1e-3


def test_a_resolved_configuration_keeps_its_rate():
    config = load_config(["--algorithm.type", "flow_grpo"])
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    assert RunConfig(learner=LearnerConfig()).learner.optimizer.lr == DEFAULT_LR["locus"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--learner.optimizer.lr", "0"], "learner.optimizer.lr: expected"),
        (["--learner.optimizer", "3"], "learner.optimizer: expected"),
        (["--algorithm.type", "no_such"], "algorithm"),
        (["--algorithm.type", "[]"], "algorithm.type: expected"),
        (["--algorithm", "{type: []}"], "algorithm"),
    ],
)
def test_faults_are_told_as_ever(flags, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(flags)
