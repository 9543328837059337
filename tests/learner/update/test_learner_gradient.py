"""What the learner takes from a group: its gradient, its ratio and its gate, on real rollouts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from editing.editors.lora import adapter_arrays, adapter_parameters, swapped_weights, without_adapter
from learner.update.learner import Learner
from learner.update.policy_gate import PolicyGateError
from tests.learner.rig import Rig, made_scores, moved, weights_of


def manual_gradient(rig: Rig, group, values, old_version_arrays=None) -> dict[str, torch.Tensor]:
    """The LoRA gradient of the group's loss, without any code of the learner: plain autograd, losses in float64."""
    config, editor = rig.config, rig.learner.editor
    surrogate, preservation = config.algorithm, config.algorithm.preservation
    task = rig.tasks.train[group.lease.task_index]
    condition = editor.encode(task)
    mask = editor.token_mask(task.edit_mask, condition).double()
    source = condition.source_latents[0].double()
    channels = source.shape[1]
    w = mask / (channels * mask.sum() * surrogate.tau_edit**2) + (1 - mask) / (
        channels * (1 - mask).sum() * surrogate.tau_base**2
    )
    rewards = torch.tensor(values, dtype=torch.float64)
    advantages = (rewards - rewards.mean()) / rewards.std(correction=0)

    def log_pi(anchor, candidates):
        return torch.log_softmax(
            torch.stack([-0.5 * (w[:, None] * (c - anchor).square()).sum() for c in candidates]), 0
        )

    old_velocities = {}
    if old_version_arrays is not None:
        # Before any graph is built: the weights are swapped in place.
        with torch.no_grad(), swapped_weights(editor.transformer, old_version_arrays):
            for j, step in enumerate(group.kept_steps):
                for b in range(len(group.anchors)):
                    x, sigma = torch.tensor(group.predecessors[j, b])[None], torch.tensor(group.sigmas[step])
                    old_velocities[j, b] = editor.velocity(x, sigma[None], condition)[0].double()

    total = torch.zeros((), dtype=torch.float64)
    pairs = len(group.kept_steps) * len(group.anchors)
    for j, step in enumerate(group.kept_steps):
        sigma, following = torch.tensor(group.sigmas[step]), torch.tensor(group.sigmas[step + 1])
        candidates = torch.tensor(group.candidates[j]).double()
        for b in range(len(group.anchors)):
            x = torch.tensor(group.predecessors[j, b])[None]
            with torch.no_grad(), without_adapter(editor.transformer):
                base = editor.velocity(x, sigma[None], condition)[0].double()
            v = editor.velocity(x, sigma[None], condition)[0].double()
            anchor = x[0].double() + (following - sigma).double() * v
            log_new = log_pi(anchor, candidates)
            if old_version_arrays is None:
                log_old = log_new.detach()
            else:
                log_old = log_pi(x[0].double() + (following - sigma).double() * old_velocities[j, b], candidates)
            rho = torch.exp(log_new - log_old)
            clipped = rho.clamp(1 - surrogate.clip, 1 + surrogate.clip)
            j_pair = torch.minimum(advantages * rho, advantages * clipped).sum()
            kl = (log_old.exp() * (log_old - log_new)).sum()
            clean = x[0].double() - sigma.double() * v
            held = ((clean - source).square().mean(1) * (1 - mask)).sum() / (1 - mask).sum()
            near = (v - base).square().mean()
            total = (
                total
                + (
                    -j_pair
                    + surrogate.kl_weight * kl
                    + preservation.background_weight * held
                    + preservation.velocity_weight * near
                )
                / pairs
            )
    parameters = adapter_parameters(editor.transformer)
    return dict(zip(parameters, torch.autograd.grad(total, list(parameters.values())), strict=True))


def assert_gradients(learner: Learner, expected: dict[str, torch.Tensor]) -> None:
    largest = max(g.abs().max().item() for g in expected.values())
    for name, parameter in adapter_parameters(learner.editor.transformer).items():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("terms", ["surrogate", "all"])
def test_the_adapters_gradient_equals_a_manual_computation(rig, terms, micro_batch):
    preservation = {"background_weight": 0.3, "velocity_weight": 0.2} if terms == "all" else {"background_weight": 0.0}
    r = rig(
        learner={"groups_per_step": 1}, algorithm={"preservation": preservation}, editor={"micro_batch": micro_batch}
    )
    moved(r)
    r.publish()
    group, values = r.group(0, 0), [0.3, -1.0, 0.8, 0.1]
    assert r.learner.consume(group, made_scores(group, values)).accepted
    assert_gradients(r.learner, manual_gradient(r, group, values))


def test_the_gradient_of_a_step_is_the_mean_over_its_groups(rig):
    r = rig()
    moved(r)
    r.publish()
    groups = r.groups(0)
    values = [[0.3, -1.0, 0.8, 0.1], [1.0, 2.0, 0.0, 4.0]]
    each = [manual_gradient(r, g, v) for g, v in zip(groups, values, strict=True)]
    for g, v in zip(groups, values, strict=True):
        r.learner.consume(g, made_scores(g, v))
    assert_gradients(r.learner, {name: (each[0][name] + each[1][name]) / 2 for name in each[0]})


def test_a_stale_group_is_compared_with_the_weights_that_made_it(rig):
    over = {
        "cluster": {"staleness": 1},
        "learner": {
            "groups_per_step": 1,
            "optimizer": {"lr": 0.05, "warmup_steps": 0},
        },
        "algorithm": {"preservation": {"background_weight": 0.0}, "kl_weight": 0.5, "clip": 0.5},
    }
    r = rig(**over)
    old_arrays = adapter_arrays(r.learner.editor.transformer)
    made_by_0 = r.group(1, 0)
    r.step(0)
    before = weights_of(r.learner)
    values = [0.3, -1.0, 0.8, 0.1]
    expected = manual_gradient(r, made_by_0, values, old_arrays)
    report = r.learner.consume(made_by_0, made_scores(made_by_0, values))
    assert report.accepted and report.staleness == 1
    assert_gradients(r.learner, expected)
    assert weights_of(r.learner) == before
    metrics = r.learner.update().metrics
    assert metrics["stale_groups"] == 1 and metrics["ratio_deviation"] > 1e-7
    # The leap under the kept adapter is the rollout's own step, although the weights have moved since.
    assert metrics["leap_error"] < 1e-5


def test_on_policy_the_ratio_is_one_and_the_leap_is_the_rollouts_step(rig):
    r = rig()
    for step in range(3):
        metrics = r.step(step).metrics
        assert metrics["ratio_deviation"] == 0 and metrics["clipped_fraction"] == 0
        assert metrics["leap_error"] < 1e-5
    assert r.learner.version == 3


def test_later_updates_on_the_same_groups_move_the_ratio(rig):
    r = rig(learner={"updates_per_step": 3}, algorithm={"kl_weight": 0.1})
    report = r.step(0)
    assert report.metrics["ratio_deviation"] > 1e-7 and report.metrics["kl"] > 0
    assert report.metrics["groups"] == 2 and report.metrics["stale_groups"] == 0
    counts = r.learner.state["optimizer_counts"]
    assert set(counts.values()) == {3.0} and r.learner.version == 1


def test_the_gate_stops_a_worker_with_other_weights(rig):
    r = rig()
    moved(r)  # and never published
    group = r.group(0, 0)
    with pytest.raises(PolicyGateError, match="do not hold the same weights"):
        r.learner.consume(group, made_scores(group))
    # From the spool it would fail again at every resume.
    assert [path.stem for path in r.learner.spool.faulty.iterdir()] == [group.lease.group_id]
    assert list(r.learner.spool.folder.iterdir()) == []


def test_the_gate_stops_a_worker_with_another_task_or_grid(rig):
    r = rig()
    group = r.group(0, 0)
    other = replace(group, sigmas=group.sigmas * np.array([1, 0.9, 0.8, 0], dtype=np.float32))
    with pytest.raises(PolicyGateError, match="grid"):
        r.learner.consume(other, made_scores(other))
    r = rig()
    swapped = replace(r.group(0, 1), lease=group.lease, task_id=group.task_id, anchors=group.anchors)
    with pytest.raises(PolicyGateError, match="began from other noise"):
        r.learner.consume(swapped, made_scores(swapped))


def test_the_gate_holds_for_rewards_that_wait_for_the_whole_step(rig):
    r = rig(rewards={"normalisation": "pooled"})
    moved(r)
    for group in r.groups(0):
        assert r.learner.consume(group, made_scores(group)).accepted
    with pytest.raises(PolicyGateError):
        r.learner.update()


def test_a_second_order_rollout_is_compared_where_it_takes_euler_steps(rig):
    second = {"solver": "dpm2m", "steps": 4}
    r = rig(sampler=second, algorithm={"trained_steps": [1, 2]})
    metrics = r.step(0).metrics
    assert metrics["leap_error"] < 1e-5 and metrics["ratio_deviation"] == 0
    r.publish()
    moved(r)
    group = r.group(1, 0)
    with pytest.raises(PolicyGateError, match="do not hold the same weights"):
        r.learner.consume(group, made_scores(group))
    # Its third step of four is corrected by the second: there is nothing to compare a leap with.
    alone = rig(sampler=second, algorithm={"trained_steps": [2]}).step(0).metrics
    assert "leap_error" not in alone and alone["ratio_deviation"] == 0
