"""Tests of learner.learner with a tiny random Kontext and real rollouts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from configs.load import config_hash
from editing.editors.lora import adapter_arrays, adapter_parameters, adapter_weights, copy_arrays, without_adapter
from editing.editors.policy import open_policy
from editing.task import TaskError
from editing.weights import fingerprint
from learner.algorithms import rc_grpo
from learner.checkpoint import CheckpointError, load_latest, load_step
from learner.learner import Learner, LearnerError, RatioGateError
from learner.spool import read_spooled
from tests.learner.rig import Rig, made_scores, renamed, tiny_config


@pytest.fixture
def rig(tiny_kontext, tmp_path):
    return lambda **over: Rig(tiny_config(tiny_kontext, **over), tmp_path)


def weights_of(learner: Learner) -> str:
    return fingerprint(adapter_arrays(learner.editor.transformer))


def moved(rig: Rig, amount: float = 0.05, seed: int = 0) -> None:
    """Gives the learner an adapter that does something."""
    rng = np.random.default_rng(seed)
    transformer = rig.learner.editor.transformer
    copy_arrays(transformer, {
        name: (array + amount * rng.normal(size=array.shape)).astype("f4")
        for name, array in adapter_arrays(transformer).items()})


def manual_gradient(rig: Rig, group, values, old_version_arrays=None) -> dict[str, torch.Tensor]:
    """The LoRA gradient of the group's loss, without any code of the learner: plain autograd, losses in float64."""
    config, editor = rig.config, rig.learner.editor
    surrogate, preservation = config.learner.surrogate, config.learner.preservation
    task = rig.tasks.train[group.lease.task_index]
    condition = editor.encode(task)
    mask = editor.token_mask(task.edit_mask, condition).double()
    source = condition.source_latents[0].double()
    channels = source.shape[1]
    w = (mask / (channels * mask.sum() * surrogate.tau_edit**2)
         + (1 - mask) / (channels * (1 - mask).sum() * surrogate.tau_base**2))
    rewards = torch.tensor(values, dtype=torch.float64)
    advantages = (rewards - rewards.mean()) / rewards.std(correction=0)

    def log_pi(anchor, candidates):
        return torch.log_softmax(
            torch.stack([-0.5 * (w[:, None] * (c - anchor).square()).sum() for c in candidates]), 0)

    old_velocities = {}
    if old_version_arrays is not None:
        # Before any graph is built: the weights are swapped in place.
        with torch.no_grad(), adapter_weights(editor.transformer, old_version_arrays):
            for j, step in enumerate(group.trained_steps):
                for b in range(len(group.anchors)):
                    x, sigma = torch.tensor(group.predecessors[j, b])[None], torch.tensor(group.sigmas[step])
                    old_velocities[j, b] = editor.velocity(x, sigma[None], condition)[0].double()

    total = torch.zeros((), dtype=torch.float64)
    pairs = len(group.trained_steps) * len(group.anchors)
    for j, step in enumerate(group.trained_steps):
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
            total = total + (-j_pair + surrogate.kl_weight * kl + preservation.background_weight * held
                             + preservation.velocity_weight * near) / pairs
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
    r = rig(learner={"preservation": preservation, "groups_per_step": 1}, editor={"micro_batch": micro_batch})
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
    over = {"cluster": {"staleness": 1}, "learner": {
        "groups_per_step": 1, "preservation": {"background_weight": 0.0},
        "surrogate": {"kl_weight": 0.5, "clip": 0.5}, "optimizer": {"lr": 0.05, "warmup_steps": 0}}}
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
    r = rig(learner={"updates_per_step": 3, "surrogate": {"kl_weight": 0.1}})
    report = r.step(0)
    assert report.metrics["ratio_deviation"] > 1e-7 and report.metrics["kl"] > 0
    assert report.metrics["groups"] == 2 and report.metrics["stale_groups"] == 0
    counts = r.learner.state["optimizer_counts"]
    assert set(counts.values()) == {3.0} and r.learner.version == 1


def test_the_gate_stops_a_worker_with_other_weights(rig):
    r = rig()
    moved(r)  # and never published
    group = r.group(0, 0)
    with pytest.raises(RatioGateError, match="do not hold the same weights"):
        r.learner.consume(group, made_scores(group))
    # From the spool it would fail again at every resume.
    assert [path.stem for path in r.learner.spool.faulty.iterdir()] == [group.lease.group_id]
    assert list(r.learner.spool.folder.iterdir()) == []


def test_the_gate_stops_a_worker_with_another_task_or_grid(rig):
    r = rig()
    group = r.group(0, 0)
    other = replace(group, sigmas=group.sigmas * np.array([1, 0.9, 0.8, 0], dtype=np.float32))
    with pytest.raises(RatioGateError, match="grid"):
        r.learner.consume(other, made_scores(other))
    r = rig()
    swapped = replace(r.group(0, 1), lease=group.lease, task_id=group.task_id)
    with pytest.raises(RatioGateError, match="encode the task alike"):
        r.learner.consume(swapped, made_scores(swapped))


def test_the_gate_holds_for_rewards_that_wait_for_the_whole_step(rig):
    r = rig(rewards={"normalisation": "pooled"})
    moved(r)
    for group in r.groups(0):
        assert r.learner.consume(group, made_scores(group)).accepted
    with pytest.raises(RatioGateError):
        r.learner.update()


def test_a_second_order_rollout_is_compared_where_it_takes_euler_steps(rig):
    second = {"solver": "dpm2m", "steps": 4, "trained_steps": [1, 2]}
    r = rig(sampler=second)
    metrics = r.step(0).metrics
    assert metrics["leap_error"] < 1e-5 and metrics["ratio_deviation"] == 0
    r.publish()
    moved(r)
    group = r.group(1, 0)
    with pytest.raises(RatioGateError, match="do not hold the same weights"):
        r.learner.consume(group, made_scores(group))
    # Its third step of four is corrected by the second: there is nothing to compare a leap with.
    alone = rig(sampler={**second, "trained_steps": [2]}).step(0).metrics
    assert "leap_error" not in alone and alone["ratio_deviation"] == 0


@pytest.mark.parametrize("over", [
    {}, {"rewards": {"normalisation": "pooled"}}, {"learner": {"updates_per_step": 2}},
    {"cluster": {"staleness": 1}},
], ids=["streaming", "pooled", "two updates", "staleness"])
def test_a_resumed_run_equals_the_unbroken_one_to_the_byte(rig, over, tiny_kontext, tmp_path):
    unbroken = rig(**over)
    unbroken.step(0)
    unbroken.step(1)
    path = unbroken.learner.save({"cursor": 12})
    unbroken.step(2)
    unbroken.step(3)
    final = unbroken.learner.save()

    resumed = Rig(tiny_config(tiny_kontext, **over), tmp_path / "other")
    loaded, refused = load_latest(path.parent)
    assert loaded.step == 4 and refused == ()
    # Step 2 is still there: two are kept.
    assert resumed.learner.restore(load_step(path.parent, 2)) == {"cursor": 12}
    assert resumed.learner.version == 2
    resumed.step(2)
    resumed.step(3)
    again = resumed.learner.save()
    for file in sorted(p.name for p in final.iterdir()):
        assert (final / file).read_bytes() == (again / file).read_bytes(), file


def test_a_fresh_learner_can_be_saved_and_restored(rig, tiny_kontext, tmp_path):
    r = rig(seed=5)
    r.learner.save()
    other = Rig(tiny_config(tiny_kontext, seed=5), tmp_path / "other")
    moved(other)
    other.learner.restore(load_latest(r.learner.folder)[0])
    assert weights_of(other.learner) == weights_of(r.learner) and other.learner.version == 0


def test_another_configuration_or_data_is_refused_and_changes_nothing(rig, tiny_kontext, tmp_path):
    r = rig()
    r.step(0)
    r.learner.save()
    saved = load_latest(r.learner.folder)[0]
    for over, sentence in [
        ({"learner": {"optimizer": {"lr": 1e-5}}}, r"learner\.optimizer\.lr"),
        ({"data": {"train_tasks": 5}}, r"data\.train_tasks"),
        ({"editor": {"lora": {"rank": 2}}}, r"editor\.lora\.rank"),
    ]:
        other = Rig(tiny_config(tiny_kontext, **over), tmp_path / "other")
        before = weights_of(other.learner)
        with pytest.raises(CheckpointError, match=sentence):
            other.learner.restore(saved)
        assert weights_of(other.learner) == before and other.learner.version == 0
    broken = replace(saved, tensors={**saved.tensors, "adapter": {}})
    with pytest.raises(CheckpointError, match="another editor"):
        r.learner.restore(broken)
    with pytest.raises(CheckpointError, match=r"data.fingerprint.held_out was 'x' and is .*--allow-changed data,"):
        r.learner.restore(replace(saved, data={**saved.data, "held_out": "x"}))
    older = replace(saved, code={**saved.code, "torch": "2.0", "sources": "0"})
    with pytest.raises(CheckpointError, match=r"code.torch was '2.0' and is .* it with --allow-changed code,"):
        r.learner.restore(older, allowed=["data", "learner"])
    r.learner.restore(older, allowed=["code"])


def test_a_gradient_that_is_not_finite_skips_the_step_and_is_counted(rig):
    r = rig()
    r.publish()
    before = weights_of(r.learner)
    for group in r.groups(0):
        r.learner.consume(group, made_scores(group))
    next(iter(r.learner.parameters.values())).grad[0, 0] = float("nan")
    report = r.learner.update()
    assert not report.applied and report.metrics["skipped_updates"] == 1
    assert "gradient_norm" not in report.metrics
    assert weights_of(r.learner) == before and r.learner.version == 1
    assert all(np.isfinite(v) for v in report.metrics.values())
    report = r.step(1)
    assert report.applied and report.metrics["skipped_updates"] == 1 and weights_of(r.learner) != before


def test_the_group_that_spoiled_a_gradient_is_kept(rig, monkeypatch):
    r, whole, calls = rig(), rc_grpo.accumulate, iter(range(9))
    r.step(0)

    def spoiled(*arguments, **named):
        result = whole(*arguments, **named)
        if next(calls) == 1:
            next(iter(r.learner.parameters.values())).grad[0, 0] = float("inf")
        return result

    monkeypatch.setattr(rc_grpo, "accumulate", spoiled)
    assert not r.step(1).applied and r.step(2).applied
    r.learner.save()
    (kept,) = r.learner.spool.faulty.iterdir()
    one = read_spooled(kept, config_hash(r.config))
    assert (one.lease.step, one.lease.slot) == (1, 1) and one.load().candidates.shape[1] == 4
    assert list(r.learner.spool.folder.iterdir()) == []


def test_skips_and_trained_slots_are_remembered_across_a_restart(rig, tiny_kontext, tmp_path):
    over = {"learner": {"groups_per_step": 1}, "cluster": {"staleness": 1}}
    r = rig(**over)
    for step in range(2):
        group = r.group(step, 0)
        r.learner.consume(group, made_scores(group))
        r.learner.parameters["transformer_blocks.0.attn.to_q.lora_B.weight"].grad[0, 0] = float("nan")
        r.learner.update()
        r.publish()
    r.learner.save()
    other = Rig(tiny_config(tiny_kontext, **over), tmp_path / "other")
    other.learner.restore(load_latest(r.learner.folder)[0])
    assert other.learner.state == r.learner.state and r.learner.state["trained_slots"] == [[1, 0, 1]]
    assert other.learner.consume(group, made_scores(group)).refusal == "duplicate"
    assert (r.learner.state["skipped_updates"], r.learner.state["skipped_in_a_row"]) == (2, 2)


def test_slots_are_remembered_no_longer_than_needed(rig):
    r = rig(cluster={"staleness": 1})
    remembered = []
    for step in range(3):
        r.step(step)
        remembered.append(r.learner.state["trained_slots"])
    assert remembered[2] == [[2, 0, 2], [2, 1, 2]]


def test_steps_that_are_skipped_in_a_row_are_counted(rig):
    r = rig(learner={"groups_per_step": 1, "steps": 10})
    counts = []
    for step, spoil in enumerate([True, True, False, True]):
        r.publish()
        group = r.group(step, 0)
        r.learner.consume(group, made_scores(group))
        if spoil:
            next(iter(r.learner.parameters.values())).grad[0, 0] = float("inf")
        report = r.learner.update()
        counts.append((report.applied, report.skipped_in_a_row))
    assert counts == [(False, 1), (False, 2), (True, 0), (False, 1)]


def test_a_group_whose_task_went_bad_is_not_taken(rig):
    r = rig()
    (group, other), whole = r.groups(0), r.tasks.train

    class Gone:
        def __getitem__(self, index):
            raise TaskError("its file is gone")

        def __len__(self):
            return len(whole)

    r.learner.tasks = replace(r.tasks, train=Gone())
    with pytest.raises(TaskError, match="is gone"):
        r.learner.consume(group, made_scores(group))
    assert not list(r.learner.spool.folder.glob("*"))
    r.learner.tasks = r.tasks
    for one in (other, group):  # nothing of it is left
        assert r.learner.consume(one, made_scores(one)).accepted
    assert r.learner.update().metrics["groups"] == 2


def test_flat_groups_are_counted_and_leave_the_surrogate_out(rig):
    r = rig(learner={"preservation": {"background_weight": 0.1}})
    groups = r.groups(0)
    r.learner.consume(groups[0], made_scores(groups[0], [1.0] * 4))
    r.learner.consume(groups[1], made_scores(groups[1], [1.0, None, None, 1.0]))
    metrics = r.learner.update().metrics
    assert metrics["flat_groups"] == 2 and metrics["invalid_candidates"] == 2 and metrics["groups"] == 2
    assert "surrogate" not in metrics and metrics["background"] > 0


def test_a_group_below_min_std_is_counted_and_leaves_the_surrogate_out(rig):
    r = rig(rewards={"min_std": 0.05}, learner={"preservation": {"background_weight": 0.1}})
    groups = r.groups(0)
    r.learner.consume(groups[0], made_scores(groups[0], [0.50, 0.51, 0.50, 0.49]))
    r.learner.consume(groups[1], made_scores(groups[1], [0.5, 0.5, 0.5, 0.5]))
    metrics = r.learner.update().metrics
    assert metrics["flat_groups"] == 2 and metrics["filtered_groups"] == 1
    assert "surrogate" not in metrics and metrics["background"] > 0


def test_a_candidate_without_a_score_has_no_influence(rig):
    r = rig(learner={"groups_per_step": 1})
    group = r.group(0, 0)
    hidden = next(i for i in range(1, 4) if i not in group.anchors)
    values = [0.1, 0.5, 0.9, 0.3]
    values[hidden] = None
    r.learner.consume(group, made_scores(group, values))
    first = {n: p.grad.clone() for n, p in r.learner.parameters.items()}
    candidates = group.candidates.copy()
    candidates[:, hidden] = 7.0
    r = rig(learner={"groups_per_step": 1})
    r.learner.consume(replace(group, candidates=candidates), made_scores(group, values))
    assert all(torch.equal(first[n], p.grad) for n, p in r.learner.parameters.items())


def test_refused_groups_leave_no_trace(rig):
    r = rig()
    group = r.group(0, 0)
    few = r.learner.consume(group, made_scores(group, [1.0, None, None, None]))
    assert (few.accepted, few.refusal) == (False, "scores") and "rewards.min_valid" in few.reason
    foreign = replace(group, config_hash="x")
    assert r.learner.consume(foreign, made_scores(foreign)).refusal == "mismatch"
    assert all(p.grad is None for p in r.learner.parameters.values())
    assert r.learner.consume(group, made_scores(group)).accepted
    assert r.learner.consume(group, made_scores(group)).refusal == "duplicate"
    retried = renamed(group, attempt=1)
    assert r.learner.consume(retried, made_scores(retried)).refusal == "duplicate"


def test_an_old_group_is_refused(rig):
    r = rig()
    old = r.group(1, 0)
    r.step(0)
    report = r.learner.consume(old, made_scores(old))
    assert (report.refusal, report.staleness) == ("stale", 1)


def test_a_step_takes_exactly_its_groups(rig):
    r = rig()
    groups = [r.group(0, slot) for slot in range(3)]
    with pytest.raises(LearnerError, match="0 of 2 groups"):
        r.learner.update()
    r.learner.consume(groups[0], made_scores(groups[0]))
    with pytest.raises(LearnerError, match="1 of 2 groups"):
        r.learner.update()
    r.learner.consume(groups[1], made_scores(groups[1]))
    with pytest.raises(LearnerError, match="too early"):
        r.learner.consume(groups[2], made_scores(groups[2]))
    assert r.learner.update().applied


def test_equal_inputs_give_equal_bytes(rig, tiny_kontext, tmp_path):
    one, two = rig(), Rig(tiny_config(tiny_kontext), tmp_path / "two")
    for step in range(2):
        one.step(step)
        two.step(step)
    assert weights_of(one.learner) == weights_of(two.learner)


def test_the_learning_rate_and_the_clip_reach_the_optimizer(rig):
    r = rig(learner={"optimizer": {"warmup_steps": 2, "lr": 1e-3, "weight_decay": 0.0, "max_grad_norm": 1e-3}})
    before = adapter_arrays(r.learner.editor.transformer)
    report = r.step(0)
    assert report.metrics["lr"] == 5e-4 and report.metrics["gradient_norm"] > 1e-3
    after = adapter_arrays(r.learner.editor.transformer)
    # Adam's first step has the size of the learning rate wherever there is a gradient.
    largest = max(np.abs(after[n] - before[n]).max() for n in before)
    assert largest == pytest.approx(5e-4, rel=1e-2)


def test_published_weights_carry_the_version(rig):
    r = rig()
    first = r.learner.publish().copied()
    r.step(0)
    second = r.learner.publish()
    assert (first.version, second.version) == (0, 1) and first.fingerprint != second.fingerprint
    assert fingerprint(first.arrays) == first.fingerprint


def test_a_learner_attaches_the_adapter_that_workers_have(tiny_kontext, tmp_path):
    from editing.editors.load import load_editor

    config = tiny_config(tiny_kontext, seed=3)
    bare = load_editor(tiny_kontext, max_text_tokens=10)
    learner = Learner(config, bare, Rig(config, tmp_path).tasks, tmp_path)
    assert weights_of(learner) == fingerprint(adapter_arrays(open_policy(config).transformer))
