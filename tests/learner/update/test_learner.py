"""The learner's intake, steps and checkpoints, with a tiny random Kontext and real rollouts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from configs.load import config_hash
from editing.editors.lora import adapter_arrays
from editing.editors.policy import open_policy
from editing.task import TaskError
from editing.weights import fingerprint
from learner.state.checkpoint import CheckpointError, load_latest, load_step
from learner.state.spool import read_spooled
from learner.update.group_loss import GroupLoss
from learner.update.learner import Learner, LearnerError
from rewards.result import GroupScores, Score
from tests.learner.rig import Rig, made_scores, moved, renamed, tiny_config, weights_of


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"rewards": {"normalisation": "pooled"}},
        {"learner": {"updates_per_step": 2}},
        {"cluster": {"staleness": 1}},
    ],
    ids=["streaming", "pooled", "two updates", "staleness"],
)
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
    other.learner.restore(load_latest(r.learner.checkpoints)[0])
    assert weights_of(other.learner) == weights_of(r.learner) and other.learner.version == 0


def test_another_configuration_or_data_is_refused_and_changes_nothing(rig, tiny_kontext, tmp_path):
    r = rig()
    r.step(0)
    r.learner.save()
    saved = load_latest(r.learner.checkpoints)[0]
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
    r, whole, calls = rig(), GroupLoss.accumulate, iter(range(9))
    r.step(0)

    def spoiled(*arguments, **named):
        result = whole(*arguments, **named)
        if next(calls) == 1:
            next(iter(r.learner.parameters.values())).grad[0, 0] = float("inf")
        return result

    monkeypatch.setattr(GroupLoss, "accumulate", spoiled)
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
    other.learner.restore(load_latest(r.learner.checkpoints)[0])
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


def test_zero_variance_groups_are_counted_and_leave_the_surrogate_out(rig):
    r = rig(algorithm={"preservation": {"background_weight": 0.1}})
    groups = r.groups(0)
    r.learner.consume(groups[0], made_scores(groups[0], [1.0] * 4))
    r.learner.consume(groups[1], made_scores(groups[1], [1.0, None, None, 1.0]))
    metrics = r.learner.update().metrics
    assert metrics["zero_variance_groups"] == 2 and metrics["invalid_candidates"] == 2 and metrics["groups"] == 2
    assert "surrogate" not in metrics and metrics["background"] > 0


def test_a_group_below_min_std_is_counted_and_leaves_the_surrogate_out(rig):
    r = rig(
        rewards={"min_std": 0.05, "floors": {"edit_score": 0.0, "edit_psnr": 0.0, "background_psnr": 0.0}},
        algorithm={"preservation": {"background_weight": 0.1}},
    )
    groups = r.groups(0)
    r.learner.consume(groups[0], made_scores(groups[0], [0.50, 0.51, 0.50, 0.49]))
    r.learner.consume(groups[1], made_scores(groups[1], [0.5, 0.5, 0.5, 0.5]))
    metrics = r.learner.update().metrics
    assert metrics["zero_variance_groups"] == 2 and metrics["filtered_groups"] == 1
    assert "surrogate" not in metrics and metrics["background"] > 0


@pytest.mark.parametrize(
    ("weights", "learnt"),
    [({"edit_psnr": 1.0, "background_psnr": 0.5}, False), ({"edit_psnr": 0.0, "background_psnr": 0.5}, True)],
)
def test_what_else_is_rewarded_is_not_learnt_alone_where_there_are_rewards_for_the_edit(rig, weights, learnt):
    r = rig(
        rewards={"weights": weights, "normalisation": "pooled"}, algorithm={"preservation": {"background_weight": 0.0}}
    )
    for group, edit in zip(r.groups(0), ([20.0] * 4, [20.0, 20.01, 20.0, 20.01]), strict=True):  # floor: .02 dB
        rows = {"edit_psnr": edit, "background_psnr": [28.0, 29.0, 28.5, 29.5]}
        r.learner.consume(
            group,
            GroupScores(
                group.lease.group_id, 0, {name: tuple(Score(value=v) for v in rows[name]) for name in weights}, 0.0
            ),
        )
    metrics = r.learner.update().metrics
    assert metrics["filtered_groups"] == metrics["zero_variance_groups"] == (0 if learnt else 2)
    assert ("surrogate" in metrics) == learnt == (metrics["gradient_norm"] > 0)


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
    assert weights_of(learner) == fingerprint(adapter_arrays(open_policy(config.editor, config.seed).transformer))
