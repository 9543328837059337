"""The checks for the GPU, run on the CPU: they pass where all is well and fail where it is not."""

import json

import pytest
import torch

from evaluation import gpu_checks


@pytest.fixture(scope="module")
def results(tiny_kontext):
    # Speed is left to test_speed: here it would only cost time.
    before, gpu_checks.CHECKS = gpu_checks.CHECKS, gpu_checks.CHECKS[:-1]
    yield {r["check"]: r for r in gpu_checks.run_checks({"tiny": str(tiny_kontext)}, ["float32"], "cpu")}
    gpu_checks.CHECKS = before


def test_all_checks_pass_on_the_tiny_editor(results):
    assert [name for name, result in results.items() if not result["ok"]] == [], results
    assert list(results) == ["rollouts_repeat", "attention_is_exact", "learner_steps", "whole_run"]
    json.dumps(list(results.values()))  # everything can be printed


def test_the_numbers_are_there(results):
    assert len(results["attention_is_exact"]["acd"]) == 3
    assert 0 <= results["attention_is_exact"]["relative_error"] <= gpu_checks.ACD_TOLERANCE
    assert len(results["learner_steps"]["leap_error"]) == 2
    assert results["whole_run"]["seconds"]["step"] > 0
    assert results["whole_run"]["base"] != results["whole_run"]["final"]


@pytest.fixture
def config(tiny_kontext, tmp_path):
    return gpu_checks.settings(str(tiny_kontext), "float32", "cpu", tmp_path, "x")


def test_a_rollout_that_is_not_repeated_is_found(config, monkeypatch):
    roll_out = gpu_checks.roll_out
    noise = torch.Generator().manual_seed(0)

    def another(*arguments):
        group = roll_out(*arguments)
        group.candidates[0, 1, 0, 0] += torch.rand((), generator=noise).item() + 1e-3
        return group

    monkeypatch.setattr(gpu_checks, "roll_out", another)
    result = gpu_checks.one(gpu_checks.rollouts_repeat, config, "cpu")
    assert not result["ok"] and "candidates of two rollouts" in result["error"]


def test_a_wrong_concentration_is_found(config, monkeypatch):
    explicit = gpu_checks.explicit_acd
    monkeypatch.setattr(gpu_checks, "explicit_acd", lambda *a: explicit(*a) * (1 + 5e-5))
    result = gpu_checks.one(gpu_checks.attention_is_exact, config, "cpu")
    assert not result["ok"] and "explicit softmax" in result["error"]


def test_evenly_spread_attention_has_a_concentration_of_one():
    query, key = torch.zeros(2, 9, 1, 4), torch.randn(2, 9, 1, 4)
    mask, valid = torch.tensor([1.0, 0, 0, 1, 0]), torch.tensor([True, False, True])
    assert gpu_checks.explicit_acd(query, key, mask, valid).tolist() == pytest.approx([1, 1])
    key[:, 3 + 3] = 100.0  # token 3, in the mask, takes it all: N / |M|
    assert gpu_checks.explicit_acd(query + 1, key, mask, valid).tolist() == pytest.approx([2.5, 2.5])


def test_a_rollout_of_other_weights_is_found(config, monkeypatch):
    roll_out = gpu_checks.roll_out

    def moved(policy, *arguments):
        group = roll_out(policy, *arguments)
        with torch.no_grad():
            policy.transformer.transformer_blocks[0].attn.to_q.lora_B.default.weight += 0.05
        return group

    monkeypatch.setattr(gpu_checks, "roll_out", moved)
    result = gpu_checks.one(gpu_checks.learner_steps, config, "cpu")
    assert not result["ok"] and "PolicyGateError" in result["error"]


def test_without_a_gpu_it_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_checks.main([]) == 1
    assert "need a CUDA GPU" in capsys.readouterr().err


def test_the_settings_ask_for_every_reward(config):
    assert set(config.rewards.weights) == {"edit_score", "edit_psnr", "background_psnr", "acd"}
