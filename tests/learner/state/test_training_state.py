"""Tests of learner.state.training_state."""

import pytest
import torch

from configs.schema import RunConfig
from learner.state.training_state import changed_keys, optimizer_tensors, refusal, restore_optimizer


def parameters(seed: int) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator))
        for name, shape in (("a.x", (2, 3)), ("b/y", (4,)))
    }


def adam(named, lr=1e-2) -> torch.optim.AdamW:
    return torch.optim.AdamW(named.values(), lr=lr, weight_decay=0.1, foreach=False, fused=False)


def train(named, optimizer, seeds) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in named.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_a_restored_optimizer_goes_on_bit_by_bit():
    unbroken = parameters(0)
    optimizer = adam(unbroken)
    train(unbroken, optimizer, range(3))
    tensors, counts = optimizer_tensors(optimizer, unbroken)
    weights = {name: p.detach().clone() for name, p in unbroken.items()}
    train(unbroken, optimizer, range(3, 6))

    resumed = parameters(1)
    with torch.no_grad():
        for name, p in resumed.items():
            p.copy_(weights[name])
    again = adam(resumed)
    restore_optimizer(again, resumed, tensors, counts)
    train(resumed, again, range(3, 6))
    assert counts == {"a.x": 3.0, "b/y": 3.0}
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_the_saved_moments_are_copies():
    named = parameters(0)
    optimizer = adam(named)
    train(named, optimizer, [0])
    tensors, _ = optimizer_tensors(optimizer, named)
    before = {name: t.clone() for name, t in tensors.items()}
    train(named, optimizer, [1])
    assert all(torch.equal(tensors[name], before[name]) for name in before)


def test_the_settings_stay_the_optimizers_own():
    named = parameters(0)
    first = adam(named, lr=1e-2)
    train(named, first, [0])
    second = adam(named, lr=5e-3)
    restore_optimizer(second, named, *optimizer_tensors(first, named))
    assert second.param_groups[0]["lr"] == 5e-3


def test_an_optimizer_that_never_stepped_is_restored_to_that():
    named = parameters(0)
    used = adam(named)
    train(named, used, [0])
    fresh = adam(named)
    assert optimizer_tensors(fresh, named) == ({}, {})
    restore_optimizer(used, named, {}, {})
    assert optimizer_tensors(used, named) == ({}, {})


@pytest.mark.parametrize("label", ["c/exp_avg", "a.x/exp_avg_of_another_shape"])
def test_a_tensor_that_fits_no_parameter_is_refused_and_changes_nothing(label):
    named = parameters(0)
    optimizer = adam(named)
    with pytest.raises(ValueError, match=label):
        restore_optimizer(optimizer, named, {label: torch.zeros(9)}, {"a.x": 1.0})
    assert not optimizer.state


def config(**changes) -> dict:
    return RunConfig.model_validate(changes).model_dump(mode="json")


def test_what_must_stay_and_what_may_change():
    same = config()
    assert changed_keys(same, config()) == {}
    harmless = config(
        name="other",
        folder="x",
        report={"gallery_tasks": 1},
        checkpoint={"every": 3},
        cluster={"mode": "inline"},
        learner={"steps": 7},
        editor={"micro_batch": 2, "device": "cpu"},
    )
    assert changed_keys(same, harmless) == {}
    changed = config(seed=1, learner={"optimizer": {"lr": 0.5}}, rewards={"weights": {"acd": 1.0}})
    assert list(changed_keys(same, changed)) == [
        "learner.optimizer.lr",
        "rewards.weights.acd",
        "rewards.weights.background_psnr",
        "rewards.weights.edit_psnr",
        "rewards.weights.edit_score",
        "seed",
    ]
    # A key that only starts like a harmless one is not harmless.
    assert changed_keys({"named": 1}, {"named": 2}) == {"named": (1, 2)}
    # Allowed by name: a key, or a whole section.
    assert list(changed_keys(same, changed, ["rewards.weights", "seed"])) == ["learner.optimizer.lr"]
    assert list(changed_keys(same, changed, ["rewards.weights.acd", "learner"])) == [
        "rewards.weights.background_psnr",
        "rewards.weights.edit_psnr",
        "rewards.weights.edit_score",
        "seed",
    ]


def test_a_refusal_names_every_key_and_what_to_type():
    assert refusal("config.yaml", {}) is None
    sentence = refusal("config.yaml", {"seed": (0, 1), "code.torch": ("1", "2"), "code.sources": ("a", "b")})
    assert sentence.startswith("config.yaml: seed was 0 and is 1 now; code.torch was '1' and is '2' now; ")
    assert "--allow-changed seed --allow-changed code, or" in sentence


def judged(path="w", replicas=0, settings=None, **editscore) -> dict:
    """An editscore judge, asked at a server or served by the run."""
    serve = {"serve": {"path": path, "replicas": replicas}} if replicas else {"urls": ["http://one/v1"]}
    return config(
        rewards={"weights": {"editscore": 1.0}, "judge": {"editscore": {**serve, **editscore}, **(settings or {})}}
    )


def test_a_judge_may_be_served_elsewhere_but_not_be_another_one():
    before = judged()
    assert changed_keys(before, judged(urls=["http://two/v1", "http://three/v1"])) == {}
    assert changed_keys(before, judged(settings={"concurrency": 3, "patience": 9, "max_unanswered": 2})) == {}
    assert changed_keys(before, {**before, "redis": {"mode": "off"}, "service": {"port": 1}}) == {}
    assert changed_keys(judged(replicas=1), judged(replicas=4)) == {}
    for key, value in (("model", "other"), ("revision", "2"), ("passes", 8), ("temperature", 0.1), ("max_tokens", 64)):
        assert changed_keys(before, judged(**{key: value})).keys() == {f"rewards.judge.editscore.{key}"}
    assert changed_keys(judged(replicas=1), judged("v", replicas=1)).keys() == {"rewards.judge.editscore.serve.path"}
