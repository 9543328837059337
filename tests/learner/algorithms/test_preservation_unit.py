"""The unit of the preservation weights, measured with the first groups of a run."""

from collections.abc import Mapping

import pytest

from configs.algorithms import RcGrpoConfig
from learner.algorithms import preservation_terms
from learner.algorithms.preservation_unit import GROUPS, LEAST_SHARE, Balance, tells
from learner.run import run
from learner.state.checkpoint import load_step
from tests.learner.rig import Rig, made_scores, tiny_config
from tests.learner.test_loop import Watcher
from tests.learner.tiny_run import tiny_run

HELD = {"preservation": {"background_weight": 0.4}}


@pytest.fixture
def fresh(tiny_kontext, tmp_path):
    """Makes a `Rig` whose unit is not known yet."""
    return lambda **over: Rig(tiny_config(tiny_kontext, **over), tmp_path, balance=None)


def test_the_background_pulls_by_its_weight_at_the_start(fresh):
    r = fresh(algorithm=HELD, learner={"groups_per_step": GROUPS})
    first, second = r.step(0).metrics, r.step(1).metrics
    assert first["background_to_surrogate"] == pytest.approx(0.4, rel=1e-6)
    assert first["background_gradient"] == pytest.approx(0.4 * first["surrogate_gradient"], rel=1e-6)
    # Frozen from there on: the bare gradients move, the unit does not.
    assert second["preservation_unit"] == first["preservation_unit"] > 0
    assert second["background_to_surrogate"] != pytest.approx(0.4, rel=1e-6)


def test_groups_are_trained_on_as_they_come_once_the_unit_is_known(fresh):
    r = fresh(algorithm=HELD, learner={"groups_per_step": GROUPS})
    gradients = lambda: [p.grad for p in r.learner.parameters.values()]  # noqa: E731
    consumed(r, r.group(0, 0))
    assert all(gradient is None for gradient in gradients())
    for slot in range(1, GROUPS):
        consumed(r, r.group(0, slot))
    r.learner.update()
    r.publish()
    consumed(r, r.group(1, 0))
    assert any(gradient is not None for gradient in gradients())


def test_small_steps_measure_until_there_are_enough_groups(fresh):
    r = fresh(algorithm=HELD, learner={"groups_per_step": 3})
    units = [r.step(step).metrics["preservation_unit"] for step in range(5)]
    assert r.learner.state["balance"]["groups"] == 9
    assert len(set(units[:3])) == 3 and units[2] == units[3] == units[4]


def test_groups_without_advantages_leave_the_preservation_terms_off(fresh):
    r = fresh(algorithm=HELD)
    r.publish()
    for group in r.groups(0):
        consumed(r, group, [1.0] * group.group_size)
    metrics = r.learner.update().metrics
    assert "background" not in metrics and r.learner.state["balance"]["groups"] == 0
    assert metrics["preservation_unit"] == 0 == metrics["gradient_norm"]
    assert r.step(1).metrics["background_to_surrogate"] == pytest.approx(0.4, rel=1e-6)


def test_zero_variance_groups_do_not_count_for_the_freeze(fresh):
    r = fresh(algorithm=HELD)
    for step in range(3):
        r.publish()
        first, second = r.groups(step)
        consumed(r, first, [1.0] * first.group_size)
        consumed(r, second)
        assert r.learner.update().metrics["preservation_unit"] > 0
        assert r.learner.state["balance"]["groups"] == step + 1


@pytest.fixture
def faint(monkeypatch):
    """Backgrounds that pull by 1e-9 of what they would, until it is called."""
    background = preservation_terms.background
    monkeypatch.setattr(preservation_terms, "background", lambda *given: 1e-9 * background(*given))
    return lambda: monkeypatch.setattr(preservation_terms, "background", background)


def test_a_background_that_hardly_pulls_does_not_become_the_unit(fresh, faint):
    r, other = fresh(algorithm=HELD), fresh(algorithm=HELD)
    first = r.step(0).metrics
    assert first["preservation_unit"] == 0 < first["surrogate_gradient"] and "background" not in first
    assert r.learner.state["balance"] == {"surrogate": 0.0, "background": 0.0, "groups": 0.0}
    # What is resumed there weighs as what was not, once a background pulls.
    r.learner.save()
    other.learner.restore(load_step(r.learner.checkpoints, 1))
    faint()
    units = [one.step(1).metrics["preservation_unit"] for one in (r, other)]
    assert units[0] == units[1] and 0 < units[0] < 1 / LEAST_SHARE


def test_a_run_whose_background_hardly_pulls_says_so(tiny_kontext, tmp_path, faint):
    watcher = Watcher()
    config = tiny_run(
        tiny_kontext,
        tmp_path,
        "r",
        {
            "learner": {"steps": 6},
            "algorithm": {"preservation": {"background_weight": 1.0}},
            "data": {"held_out_tasks": 0},
        },
    )
    summary = run(config, observers=[watcher])
    assert [step.learner["preservation_unit"] for step in watcher.steps] == [0.0] * 6
    (told,) = [one for one in summary["notifications"] if one["metric"] == "preservation_unit"]
    assert told["step"] == 5 and "more than 0.001 of the surrogate's" in told["sentence"]


def test_an_ordinary_run_has_the_same_unit_as_without_the_least_share(fresh, monkeypatch):
    at = fresh(algorithm=HELD)
    found = at.step(0).metrics["preservation_unit"]
    monkeypatch.setattr("learner.algorithms.preservation_unit.LEAST_SHARE", 0.0)
    assert fresh(algorithm=HELD).step(0).metrics["preservation_unit"] == found > 0


@pytest.mark.parametrize(
    ("norms", "told"),
    [
        ((8e-3, 3e-3), True),
        ((8e-3, 8e-12), False),
        ((8e-3, 0.0), False),
        ((0.0, 3e-3), False),
        ((8e-3, float("nan")), False),
        ((float("inf"), 3e-3), False),
        ((8e-3, float("inf")), False),
    ],
)
def test_only_norms_of_which_both_pull_tell_the_unit(norms, told):
    assert tells(*norms) == told


@pytest.mark.parametrize("steps", [2, 6])
def test_a_run_whose_groups_are_all_flat_says_so_and_trains_nothing(tiny_kontext, tmp_path, steps):
    watcher, held = Watcher(), {"background_weight": 1.0, "velocity_weight": 1.0}
    config = tiny_run(
        tiny_kontext,
        tmp_path,
        "r",
        {
            "rewards": {"min_std": 1e3},
            "learner": {"steps": steps},
            "algorithm": {"preservation": held},
            "data": {"held_out_tasks": 0},
        },
    )
    summary = run(config, observers=[watcher])
    assert [step.learner["zero_variance_groups"] for step in watcher.steps] == [2] * steps  # it happened
    told = [one for one in summary["notifications"] if one["metric"] == "preservation_unit"]
    assert [one["step"] for one in told] == [min(steps, 5)] and watcher.notices.count(told[0]["sentence"]) == 1
    assert summary["adapter_change"] == 0 and summary["verdict"]["outcome"] == "nothing_learnt"


def test_a_restored_learner_weighs_as_before(fresh):
    r, other = fresh(algorithm=HELD), fresh(algorithm=HELD)
    r.step(0)
    r.learner.save()
    other.learner.restore(load_step(r.learner.checkpoints, 1))
    assert other.learner._balance == r.learner._balance != Balance()


@pytest.mark.parametrize(
    ("method", "unit", "wanted"),
    [
        ({}, 0.0, True),
        ({"weight": 0.0}, 1.0, False),  # nothing to weigh against: plain weights
        ({"preservation": {"background_weight": 0.0}}, 0.0, False),  # nothing to weigh
        ({"preservation": {"background_weight": 0.0, "velocity_weight": 1.0}}, 0.0, True),
    ],
)
def test_what_is_measured_depends_on_the_terms(method: Mapping, unit, wanted):
    config = RcGrpoConfig.model_validate(method)
    assert (Balance().unit(config), Balance().wanted(config)) == (unit, wanted)
    assert not Balance(1, 1, GROUPS).wanted(config)


def test_units_are_means_over_groups():
    found = Balance().plus([3.0, 1.0, 2.0]).plus([1.0, 1.0, 2.0])
    assert found == Balance(4.0, 2.0, 4.0) and found.unit(RcGrpoConfig()) == 2.0


def consumed(r, group, values=None):
    report = r.learner.consume(group, made_scores(group, values))
    assert report.accepted, report.reason
