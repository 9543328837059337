"""The reward pool: what is measured, and what is an error."""

from dataclasses import replace

import numpy as np
import pytest

from editing.data import Tasks
from rewards.measure import DRIFTS, measured
from rewards.pixel import PSNR_CAP
from rewards.pool import RewardPool, at_once
from rewards.result import Score
from rewards.scorer_api import ScoreInput
from rewards.scorers import SCORERS
from tests.rewards.fake_groups import config, group_of


def test_scores_of_the_target_the_source_and_grey(tasks):
    task = tasks.train[1]
    pool = RewardPool(config(edit_score=1.0, edit_psnr=0.1, background_psnr=0.1, acd=0.2).rewards, tasks)
    acd = np.array([1.5, 0.5, 0.25], dtype=np.float32)
    scores = at_once(pool.score(group_of(task, 1, acd=acd)))
    assert (scores.group_id, scores.policy_version) == ("000000.000.0", 3)
    got = {name: [s.value for s in row] for name, row in scores.components.items()}
    assert got["acd"] == [1.5, 0.5, 0.25]
    assert got["edit_score"][0] > 0.6 > 0.3 > got["edit_score"][1]
    assert got["edit_psnr"][0] == PSNR_CAP > got["edit_psnr"][1]
    # Outside the mask target and source agree but for a level of rounding.
    assert got["background_psnr"][1] == PSNR_CAP and got["background_psnr"][0] > 45
    grey = (np.full_like(task.source, 128) / 255 - task.source / 255)[~task.edit_mask]
    assert got["background_psnr"][2] == pytest.approx(-10 * np.log10(np.square(grey).mean()), rel=1e-5)
    assert scores.valid == (True, True, True) and scores.errors == ()


def test_only_weighted_components_are_computed(tasks):
    def forbidden(given):
        raise AssertionError("not asked for")

    pool = RewardPool(config(edit_psnr=1.0, acd=0.0).rewards, tasks, {**SCORERS, "acd": forbidden})
    assert list(at_once(pool.score(group_of(tasks.train[0], 0))).components) == ["edit_psnr"]


def test_the_background_is_watched_whatever_is_rewarded(tasks):
    group = group_of(tasks.train[0], 0, acd=np.ones(3, dtype=np.float32))
    unrewarded = at_once(RewardPool(config(acd=1.0).rewards, tasks).score(group))
    rewarded = at_once(RewardPool(config(background_psnr=1.0).rewards, tasks).score(group))
    looks = rewarded.diagnostics
    assert unrewarded.diagnostics == {**rewarded.components, **looks} and unrewarded.valid == rewarded.valid
    assert "background_psnr" not in unrewarded.components
    assert len(looks) == 11 and all(len(scores) == 3 for scores in looks.values())
    assert [score.value for score in looks["edit_change"]] == [
        pytest.approx(measured(tasks.train[0], image)["edit_change"], abs=1e-6) for image in group.images
    ]
    whole = replace(tasks.train[0], edit_mask=np.ones((64, 64), dtype=bool))
    scores = at_once(RewardPool(config(edit_psnr=1.0).rewards, Tasks([whole], tasks.held_out)).score(group))
    assert "edit_change" in scores.diagnostics and "background_cast_drift" not in scores.diagnostics


@pytest.mark.parametrize("name", ["edit_score", "edit_psnr", "background_psnr", "acd"])
def test_what_a_task_lacks_is_an_error_and_never_a_number(tasks, name):
    bare = replace(tasks.train[0], target=None, meta={}, edit_mask=np.ones((64, 64), dtype=bool))
    group = group_of(tasks.train[0], 0)
    scores = at_once(RewardPool(config(**{name: 1.0}).rewards, Tasks([bare], tasks.held_out)).score(group))
    assert scores.valid == (False, False, False)
    (sentence,) = scores.errors
    assert name in sentence and bare.task_id in sentence


def test_a_scorer_that_fails_is_named_and_the_others_go_on(tasks):
    def broken(given: ScoreInput) -> tuple[Score, ...]:
        raise KeyError("judge")

    pool = RewardPool(config(edit_psnr=1.0, acd=1.0).rewards, tasks, {**SCORERS, "acd": broken})
    scores = at_once(pool.score(group_of(tasks.train[0], 0)))
    assert all(s.value is not None for s in scores.components["edit_psnr"])
    assert [s.error for s in scores.components["acd"]] == ["acd: the scorer failed with KeyError: 'judge'"] * 3
    assert not any(scores.valid)


@pytest.mark.parametrize("returned", [(), (Score(value=1.0),) * 4])
def test_a_scorer_that_returns_another_number_of_scores_is_an_error(tasks, returned):
    pool = RewardPool(config(acd=1.0).rewards, tasks, {"acd": lambda given: returned})
    scores = at_once(pool.score(group_of(tasks.train[0], 0)))
    assert len(scores.components["acd"]) == 3 and f"{len(returned)} scores for 3" in scores.errors[0]


def test_nan_from_a_measurement_is_an_error(tasks):
    pool = RewardPool(config(acd=1.0).rewards, tasks)
    acd = np.array([1.0, np.nan, np.inf], dtype=np.float32)
    assert at_once(pool.score(group_of(tasks.train[0], 0, acd=acd))).valid == (True, False, False)


def test_a_group_of_another_task_stops_the_pool(tasks):
    pool = RewardPool(config(acd=1.0).rewards, tasks)
    with pytest.raises(ValueError, match="same data"):
        at_once(pool.score(group_of(tasks.train[0], 1)))


def test_images_of_another_size_stop_the_pool(tasks):
    group = group_of(tasks.train[0], 0)
    pool = RewardPool(config(edit_psnr=1.0).rewards, tasks)
    with pytest.raises(ValueError, match=r"\[G, 64, 64, 3\]"):
        at_once(pool.score(replace(group, images=group.images[:, :32])))


def test_a_weight_without_a_scorer_is_refused_at_once(tasks):
    with pytest.raises(ValueError, match="acd"):
        RewardPool(config(acd=1.0).rewards, tasks, {})


def test_measure_reads_the_split_it_is_told(tasks):
    pool = RewardPool(config(edit_psnr=1.0).rewards, tasks)
    held = [tasks.held_out[i].target for i in (2, 0)]
    perfect = pool.measure([2, 0], held, "held_out")
    assert [m["edit_psnr"] for m in perfect] == [PSNR_CAP, PSNR_CAP]
    assert [m["edit_accuracy"] for m in perfect] == [1.0, 1.0]
    assert all(m["edit_score"] > 0.4 and m["background_ssim"] > 0.99 for m in perfect)
    assert pool.measure([2, 0], np.stack(held), "train")[0]["edit_psnr"] < 30
    with pytest.raises(ValueError):
        pool.measure([2], held, "held_out")


def test_measured_leaves_out_what_has_no_truth(tasks):
    task = tasks.held_out[0]
    image = task.source
    truth = {"edit_score", "editscore_truth", "edit_accuracy"}
    wanted, inside = (
        {"edit_psnr", "edit_delta_e", "edit_pyramid"},
        {"edit_change", *(f"edit_{name}_drift" for name in DRIFTS)},
    )
    kept = {
        "background_psnr",
        "background_ssim",
        "background_pyramid",
        "background_cast_share",
        *(f"background_{name}_drift" for name in DRIFTS),
    }
    assert set(measured(task, image)) == {*inside, *truth, *wanted, *kept}
    assert set(measured(replace(task, meta={}), image)) == {*inside, *wanted, *kept}
    bare = replace(task, meta={}, target=None)
    unchanged = dict.fromkeys(inside, 0.0)  # without a target, drifts are to the source
    perfect = {name: 0.0 for name in kept} | {"background_psnr": PSNR_CAP, "background_ssim": 1.0}
    assert measured(bare, image) == {**unchanged, **perfect}
    full = replace(bare, edit_mask=np.ones_like(task.edit_mask))
    assert measured(full, image) == unchanged
