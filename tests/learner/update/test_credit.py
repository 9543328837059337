"""Tests of learner.update.credit, and of regions on their way from a task to a method."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from configs.algorithms import EditGrpoConfig, RcGrpoConfig
from configs.rewards import RewardsConfig
from editing.task import TaskError
from learner.algorithms.region_credit import RegionCredit, region_credit, shared_credit
from learner.update.credit import credited, credited_scores
from learner.update.held_group import hold, tensors_of
from rewards.compose import composed
from rewards.result import GroupScores, Score
from tests.learner.rig import Rig, tiny_config, weights_of

REWARDS = RewardsConfig(weights={"edit_score": 1.0, "background_psnr": 0.1})


def scores(edit, background) -> GroupScores:
    rows = {"edit_score": edit, "background_psnr": background}
    return GroupScores(
        "g",
        0,
        {
            name: tuple(Score(error="failed") if v is None else Score(value=v) for v in row)
            for name, row in rows.items()
        },
        0.0,
    )


TWO = [scores([0.1, 0.9, 0.5, None], [30.0, 20.0, 28.0, 25.0]), scores([0.2, 0.3, 0.7, 0.4], [25.0, 25.0, 25.0, 29.0])]


def standardised(values: list[float], spread: float | None = None) -> list[float]:
    x = np.array(values)
    return ((x - x.mean()) / (x.std() if spread is None else spread)).tolist()


def test_every_region_is_standardised_by_itself():
    first, second = credited_scores(TWO, REWARDS, EditGrpoConfig())
    assert first.regions["edit"].tolist() == pytest.approx([*standardised([0.1, 0.9, 0.5]), 0.0], abs=1e-6)
    assert first.regions["background"].tolist() == pytest.approx([*standardised([30.0, 20.0, 28.0]), 0.0], abs=1e-6)
    assert second.regions["edit"].tolist() == pytest.approx(standardised([0.2, 0.3, 0.7, 0.4]), abs=1e-6)
    assert first.regions["edit"].dtype == torch.float32


def test_a_spread_over_the_step_is_that_of_the_region():
    method = EditGrpoConfig(advantage={"kind": "global_std"})
    first, second = credited_scores(TWO, REWARDS, method)
    for region, rows, factor in (
        ("edit", ([0.1, 0.9, 0.5], [0.2, 0.3, 0.7, 0.4]), 1.0),
        ("background", ([30.0, 20.0, 28.0], [25.0, 25.0, 25.0, 29.0]), 0.1),
    ):
        spread = factor * np.concatenate(rows).std()
        for credit, row in zip((first, second), rows, strict=True):
            expected = standardised([factor * value for value in row], spread)
            assert credit.regions[region][: len(row)].tolist() == pytest.approx(expected, abs=1e-5)


def test_without_regions_the_credit_is_that_of_candidates():
    rewards = composed(TWO, REWARDS)
    for one, same in zip(
        credited_scores(TWO, REWARDS, RcGrpoConfig()), credited(rewards, RcGrpoConfig().advantage), strict=True
    ):
        assert one.regions is None and torch.equal(one.advantages, same.advantages)
    assert credited_scores([], REWARDS, EditGrpoConfig()) == []


def test_the_background_is_trained_on_where_no_reward_for_the_edit_varies():
    flat = scores([0.5] * 4, [30.0, 20.0, 28.0, 25.0])
    (whole,) = credited_scores([flat], REWARDS, RcGrpoConfig())
    assert whole.reward.filtered and not whole.advantages.any()
    (credit,) = credited_scores([flat], REWARDS, EditGrpoConfig())
    assert not credit.reward.filtered and not credit.regions["edit"].any() and credit.regions["background"].any()
    little = scores([0.5, 0.51, 0.5, 0.5], [30.0] * 4)
    (credit,) = credited_scores([little], REWARDS.model_copy(update={"min_std": 0.1}), EditGrpoConfig())
    assert credit.reward.filter == "std" and not any(one.any() for one in credit.regions.values())


def test_a_region_without_tokens_has_no_part():
    masks = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    advantages = torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
    got = region_credit(("edit", "background", "hat"), masks, advantages, torch.tensor([1.0, 0.5, 1.0]), (1, 4), 0)
    assert got.advantages.tolist() == [[1, 2, 0], [-1, -2, 0]] and not got.is_silent
    assert got.tokens.tolist() == [[1, 1, 1, 1], [-1, -1, -1, -1]]
    alone = region_credit(("hat",), masks[2:], advantages[:, 2:], torch.ones(1), (1, 4), 1)
    assert alone.is_silent
    assert RegionCredit(("edit",), masks[:1], advantages[:, :1], torch.zeros(1)).is_silent
    soft = region_credit(("edit", "background"), masks[:2], advantages[:, :2], torch.ones(2), (1, 4), 1)
    torch.testing.assert_close(soft.masks, torch.tensor([[1, 2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3, 1]]))


def test_shared_credit_leaves_an_empty_background_out():
    got = shared_credit(torch.tensor([1.0, -1.0]), torch.ones(3))
    assert got.advantages.tolist() == [[1, 0], [-1, 0]] and got.masks.tolist() == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("parts", [dict(weights=torch.ones(3)), dict(names=("edit",)), dict(masks=torch.ones(1, 4))])
def test_parts_of_another_number_of_regions_are_told(parts):
    given = dict(
        names=("edit", "background"), masks=torch.ones(2, 4), advantages=torch.ones(5, 2), weights=torch.ones(2)
    )
    with pytest.raises(ValueError, match=r"expected masks \[R, N\]"):
        RegionCredit(**{**given, **parts})


def with_a_hat(config):
    """One of the rewards belongs to the hat. Tasks of the benchmark have none, so that a run would refuse this."""
    rewards = config.rewards.model_copy(update={"regions": {"edit_score": "hat"}})
    return config.model_copy(update={"rewards": rewards})


@pytest.fixture
def rig(tiny_kontext, tmp_path) -> Rig:
    method = {"type": "edit_grpo", "trained_steps": [0, 1], "credit": {"weights": {"background": 0.5}, "ring": 1}}
    weights = {"edit_psnr": 1.0, "background_psnr": 0.1, "edit_score": 0.5}
    rig = Rig(with_a_hat(tiny_config(tiny_kontext, algorithm=method, rewards={"weights": weights})), tmp_path)
    tasks = rig.tasks.train
    hat = np.zeros(tasks[0].edit_mask.shape, dtype=bool)
    hat[:24, :24] = True

    class WithHat:
        fingerprint = tasks.fingerprint

        def __len__(self):
            return len(tasks)

        def __getitem__(self, index):
            return replace(tasks[index], regions={"hat": hat})

    rig.tasks = replace(rig.tasks, train=WithHat())
    rig.learner.tasks = rig.tasks
    return rig


def three_scores(group, hat=True) -> GroupScores:
    rng = np.random.default_rng(group.lease.seed)
    rows = {name: rng.normal(size=group.group_size) for name in ("edit_psnr", "background_psnr", "edit_score")}
    if not hat:
        rows["edit_score"][:] = 0.5
    components = {name: tuple(Score(value=float(v)) for v in row) for name, row in rows.items()}
    return GroupScores(group.lease.group_id, group.policy_version, components, 0.0)


def test_a_methods_group_holds_all_regions_with_their_borders_and_weights(rig):
    config, group = rig.config, rig.group(0, 0)
    held = hold(rig.learner.editor, config, rig.tasks.train[group.lease.task_index], group, 0)
    (credit,) = credited_scores([three_scores(group)], config.rewards, config.algorithm)
    found = tensors_of(held, credit, config).regions
    assert found.names == ("edit", "background", "hat") and found.weights.tolist() == [1.0, 0.5, 1.0]
    torch.testing.assert_close(found.masks[0] + found.masks[1], torch.ones_like(found.masks[0]))
    assert ((found.masks > 0) & (found.masks < 1)).any(dim=1).all(), "a ring of one token softens every border"
    assert held.named_masks["hat"].sum() > 0
    assert found.advantages.shape == (4, 3)
    torch.testing.assert_close(found.advantages.sum(dim=0), torch.zeros(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["edit_grpo", "spatialflow_grpo", "locus"])
def test_a_method_trains_on_regions_of_the_tasks_own(kind, rig, tiny_kontext, tmp_path):
    if kind != "edit_grpo":
        steps = {"trained_steps": [0, 1]} if kind == "locus" else {"window_size": 2}
        method = {"type": kind, "credit": {"per": "region"}, **steps}
        weights = dict(rig.config.rewards.weights)
        other = Rig(
            with_a_hat(tiny_config(tiny_kontext, algorithm=method, rewards={"weights": weights})), tmp_path / "other"
        )
        other.tasks = other.learner.tasks = rig.tasks
        rig = other
    before = weights_of(rig.learner)
    rig.publish()
    for group in rig.groups(0):
        assert rig.learner.consume(group, three_scores(group)).accepted
    metrics = rig.learner.update().metrics
    assert metrics["ratio_deviation"] == 0 and metrics["surrogate_gradient"] > 0
    assert weights_of(rig.learner) != before


def test_a_task_without_the_region_is_told_of_by_worker_and_learner(rig):
    group = rig.group(0, 0)
    whole = rig.tasks.train
    bare = replace(whole[group.lease.task_index], regions={})
    with pytest.raises(TaskError, match=r"expected a region 'hat', which rewards\.regions names"):
        hold(rig.learner.editor, rig.config, bare, group, 0)
    rig.tasks = replace(rig.tasks, train=[bare] * len(whole))
    with pytest.raises(TaskError, match="expected a region 'hat'"):
        rig.group(0, 0)
