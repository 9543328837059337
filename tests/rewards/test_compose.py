"""Tests of rewards.compose against plain loops."""

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from learner.algorithms.credit import group_advantages, is_zero_variance
from rewards.compose import GroupReward, admit, compose
from rewards.filters import Filters
from rewards.result import GroupScores, Score

values = st.floats(-100, 100).map(lambda x: round(x, 3))
maybe = st.one_of(values, values, values, st.none())


def scored(group: dict[str, list[float | None]], name: str = "g") -> GroupScores:
    return GroupScores(
        name,
        0,
        {
            n: tuple(Score(error=f"{n} failed") if v is None else Score(value=v) for v in row)
            for n, row in group.items()
        },
        0.0,
    )


@st.composite
def batches(draw):
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    return [{n: draw(st.lists(maybe, min_size=k, max_size=k)) for n in ("a", "b")} for k in sizes]


def by_loops(batch, weights, normalisation):
    """Rewards (None where invalid) by the definition."""
    valid = [[all(g[n][i] is not None for n in weights) for i in range(len(g["a"]))] for g in batch]
    rewards = [[0.0 if ok else None for ok in row] for row in valid]
    for name, weight in weights.items():
        rows = [[g[name][i] for i, ok in enumerate(row) if ok] for g, row in zip(batch, valid, strict=True)]
        flat = [v for row in rows for v in row]
        if not flat:
            continue
        if normalisation == "pooled":
            centres = [statistics.fmean(row) if row else 0.0 for row in rows]
            squares = [(v - c) ** 2 for row, c in zip(rows, centres, strict=True) if len(set(row)) > 1 for v in row]
            scale = math.sqrt(statistics.fmean(squares or [0.0]))
        elif normalisation == "minibatch":
            centres = [statistics.fmean(flat)] * len(rows)
            scale = statistics.pstdev(flat)
        else:
            centres, scale = [0.0] * len(rows), 1.0
        if scale < 1e-7:
            continue
        for g, c, reward in zip(batch, centres, rewards, strict=True):
            for i in range(len(reward)):
                if reward[i] is not None:
                    reward[i] += weight * (g[name][i] - c) / scale
    return rewards


@pytest.mark.parametrize("normalisation", ["none", "pooled", "minibatch"])
@given(batch=batches(), weight=st.sampled_from([-2.0, 0.3, 7.0]))
def test_compose_equals_the_definition(normalisation, batch, weight):
    weights = {"a": 1.5, "b": weight}
    composed = compose([scored(g) for g in batch], weights, normalisation)
    for got, expected in zip(composed, by_loops(batch, weights, normalisation), strict=True):
        assert got.rewards.dtype == np.float64
        assert got.valid.tolist() == [e is not None for e in expected]
        np.testing.assert_allclose(got.rewards, [e or 0.0 for e in expected], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("normalisation", ["none", "pooled", "minibatch"])
@given(batch=batches(), seed=st.integers(0, 99))
def test_the_order_of_the_groups_does_not_matter_to_a_bit(normalisation, batch, seed):
    order = np.random.default_rng(seed).permutation(len(batch))
    weights = {"a": 1.0, "b": 0.5}
    straight = compose([scored(g) for g in batch], weights, normalisation)
    shuffled = compose([scored(batch[i]) for i in order], weights, normalisation)
    for place, i in enumerate(order):
        assert shuffled[place].rewards.tobytes() == straight[i].rewards.tobytes()


def test_pooled_spares_what_differs_between_groups_and_minibatch_does_not():
    near, far = {"a": [1.0, 3.0]}, {"a": [101.0, 103.0]}
    pooled = compose([scored(near), scored(far)], {"a": 1.0}, "pooled")
    assert [r.rewards.tolist() for r in pooled] == [[-1.0, 1.0], [-1.0, 1.0]]
    batch = compose([scored(near), scored(far)], {"a": 1.0}, "minibatch")
    assert batch[0].rewards.max() < -0.9 and batch[1].rewards.min() > 0.9


@pytest.mark.parametrize("normalisation", ["none", "pooled", "minibatch"])
def test_a_saturated_group_stays_flat_beside_one_that_varies(normalisation):
    saturated, varied = {"a": [1 - 1e-9, 1 - 2e-9, 1 - 3e-9]}, {"a": [0.1, 0.4, 0.6]}
    flat, other = compose([scored(saturated), scored(varied)], {"a": 1.0}, normalisation)
    assert group_advantages(torch.tensor(flat.rewards)).tolist() == [0.0, 0.0, 0.0]
    assert group_advantages(torch.tensor(other.rewards)).abs().min() > 0.1


@pytest.mark.parametrize("normalisation", ["pooled", "minibatch"])
def test_a_component_that_does_not_vary_contributes_nothing_and_is_reported(normalisation):
    groups = [scored({"a": [0.1 + 0.2] * 3, "b": [1.0, 2.0, 3.0]})]
    (with_a,) = compose(groups, {"a": 5.0, "b": 1.0}, normalisation)
    (without,) = compose(groups, {"b": 1.0}, normalisation)
    assert with_a.silent == ("a",) and without.silent == ()
    np.testing.assert_array_equal(with_a.rewards, without.rewards)


def test_components_of_weight_zero_and_unweighted_ones_are_ignored():
    group = scored({"a": [1.0, 2.0], "b": [None, None]})
    for weights in ({"a": 1.0}, {"a": 1.0, "b": 0.0}, {"a": 1.0, "absent": 0.0}):
        (reward,) = compose([group], weights, "none")
        assert reward.rewards.tolist() == [1.0, 2.0] and reward.valid.all()


def test_a_missing_component_is_named():
    with pytest.raises(ValueError, match="'b'"):
        compose([scored({"a": [1.0]})], {"a": 1.0, "b": 1.0}, "none")
    with pytest.raises(ValueError, match="weight other than 0"):
        compose([scored({"a": [1.0]})], {"a": 0.0}, "none")
    with pytest.raises(ValueError, match="normalisation"):
        compose([scored({"a": [1.0]})], {"a": 1.0}, "zscore")


@pytest.mark.parametrize("normalisation", ["none", "pooled", "minibatch"])
def test_no_group_and_no_valid_candidate(normalisation):
    assert compose([], {"a": 1.0}, normalisation) == []
    (reward,) = compose([scored({"a": [None, None]})], {"a": 1.0}, normalisation)
    assert reward.rewards.tolist() == [0.0, 0.0] and not reward.valid.any()


def test_a_reward_is_never_nan():
    with pytest.raises(ValueError, match="finite"):
        GroupReward(np.array([np.nan]), np.array([False]))


def test_admit_counts_fully_scored_candidates():
    group = scored({"a": [1.0, 2.0, None], "b": [1.0, None, 1.0]}, name="000001.002.0")
    assert admit(group, 1) is None
    reason = admit(group, 2)
    assert "000001.002.0" in reason and "1 of 3" in reason and "is 2" in reason and "a failed" in reason


@given(batches(), st.sampled_from(["none", "pooled", "minibatch"]), st.floats(0.001, 50))
def test_a_filtered_group_varies_but_by_less_than_min_std(batch, normalisation, min_std):
    scores = [scored(group) for group in batch]
    plain = compose(scores, {"a": 1.0, "b": -0.5}, normalisation)
    for before, after in zip(
        plain, compose(scores, {"a": 1.0, "b": -0.5}, normalisation, Filters(min_std)), strict=True
    ):
        assert not before.filtered  # nothing is filtered unless it is asked for
        assert np.array_equal(before.rewards, after.rewards) and np.array_equal(before.valid, after.valid)
        kept = after.rewards[after.valid].tolist()
        spread = statistics.pstdev(kept) if len(kept) > 1 else 0.0
        flat = is_zero_variance(torch.tensor(after.rewards), torch.tensor(after.valid))
        if abs(spread - min_std) > 1e-6 * max(1.0, *map(abs, after.rewards.tolist())):
            assert after.filter == ("std" if spread < min_std and not flat else None)


def test_min_std_is_in_units_of_the_combined_reward():
    groups = [scored({"a": [0.50, 0.52]}), scored({"a": [0.2, 0.8]}), scored({"a": [0.5, 0.5]})]
    assert [r.filtered for r in compose(groups, {"a": 1.0}, "none", Filters(0.05))] == [True, False, False]
    assert [r.filtered for r in compose(groups, {"a": 10.0}, "none", Filters(0.05))] == [False, False, False]
    # Pooled, the spreads are .06 and 1.7 of the step's own.
    assert [r.filtered for r in compose(groups, {"a": 1.0}, "pooled", Filters(0.5))] == [True, False, False]


@pytest.mark.parametrize("normalisation", ["none", "pooled", "minibatch"])
def test_rounding_of_a_constant_component_stays_nothing(normalisation):
    """.1 + .2 and .3 are one value: divided by their spread they would give advantages of full size."""
    flat = scored({"a": [0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2]})
    varied = scored({"a": [0.1, 0.4, 0.9, 0.2]})
    rewards = compose([flat, varied], {"a": 1.0}, normalisation)
    assert len(set(rewards[0].rewards.tolist())) == 1 and len(set(rewards[1].rewards.tolist())) == 4


@pytest.mark.parametrize("normalisation", ["none", "pooled", "minibatch"])
def test_below_its_floor_a_component_says_nothing_and_the_others_speak(normalisation):
    judge = [0.99, 0.99001, 0.98999, 0.99]
    group = scored({"judge": judge, "psnr": [20.0, 21.0, 22.0, 23.0]})
    (alone,) = compose([group], {"psnr": 1.0}, normalisation)
    (both,) = compose([group], {"judge": 100.0, "psnr": 1.0}, normalisation, floors={"judge": 0.005})
    np.testing.assert_allclose(both.rewards - both.rewards.mean(), alone.rewards - alone.rewards.mean(), atol=1e-9)
    (loud,) = compose([group], {"judge": 100.0, "psnr": 1.0}, normalisation)
    assert np.abs(loud.rewards - loud.rewards.mean() - alone.rewards + alone.rewards.mean()).max() > 1e-4
    assert both.floored == ("judge",) and alone.floored == loud.floored == ()
    if normalisation != "none":
        assert both.silent == ("judge",) and loud.silent == ()


@pytest.mark.parametrize("normalisation", ["none", "pooled", "minibatch"])
def test_only_groups_that_vary_by_less_than_the_floor_are_told_of(normalisation):
    groups = [scored({"judge": values}) for values in ([0.5, 0.9], [0.5, 0.501], [0.5, 0.5], [0.1 + 0.2, 0.3])]
    found = compose(groups, {"judge": 1.0}, normalisation, floors={"judge": 0.005})
    assert [reward.floored for reward in found] == [(), ("judge",), (), ()]


def test_a_floor_is_a_spread_in_the_components_own_unit():
    values = [0.5, 0.5 + 2e-3]  # population std 1e-3
    for floor, said in ((0.99e-3, True), (1.01e-3, False)):
        (reward,) = compose([scored({"a": values})], {"a": 1.0}, "none", floors={"a": floor})
        assert (len(set(reward.rewards.tolist())) == 2) == said


CONSTANT, NOISE, TOLD_APART = [0.6, 0.6, 0.6], [0.6, 0.605, 0.595], [0.2, 0.5, 0.7]
SPEAKING = [28.0, 28.3, 27.9]


@pytest.mark.parametrize("normalisation", ["none", "pooled", "minibatch"])
@pytest.mark.parametrize("says_nothing", [CONSTANT, NOISE])
def test_a_group_in_which_no_reward_for_the_edit_is_above_its_floor_is_filtered(normalisation, says_nothing):
    """The background alone would teach to copy the source."""
    groups = [scored({"judge": judge, "psnr": SPEAKING}) for judge in (says_nothing, TOLD_APART)]
    weights, floors = {"judge": 1.0, "psnr": 0.25}, {"judge": 0.01, "psnr": 0.02}
    one, other = compose(groups, weights, normalisation, floors=floors, edit=("judge",))
    assert one.edit_zero_variance and one.filter == "edit" and not other.edit_zero_variance and not other.filtered
    # All groups flat: the same, though the other component is all that is left.
    (alone,) = compose(groups[:1], weights, normalisation, floors=floors, edit=("judge",))
    assert alone.edit_zero_variance and alone.filtered
    for found in compose(groups, weights, normalisation, floors=floors):  # nothing rewards the edit there
        assert not found.edit_zero_variance and not found.filtered


@pytest.mark.parametrize("normalisation", ["none", "pooled", "minibatch"])
def test_one_reward_for_the_edit_above_its_floor_is_enough(normalisation):
    groups = [scored({"judge": CONSTANT, "other": other, "psnr": SPEAKING}) for other in (NOISE, TOLD_APART)]
    found = compose(
        groups,
        {"judge": 1.0, "other": 0.5, "psnr": 0.25},
        normalisation,
        floors={"other": 0.01},
        edit=("judge", "other"),
    )
    assert [reward.filtered for reward in found] == [True, False]


def test_a_group_that_does_not_vary_at_all_is_flat_and_not_filtered():
    (reward,) = compose([scored({"judge": CONSTANT})], {"judge": 1.0}, "none", edit=("judge",))
    assert reward.edit_zero_variance and not reward.filtered
    with pytest.raises(ValueError, match=r"expected components with a weight .*got 'other'"):
        compose([scored({"judge": CONSTANT})], {"judge": 1.0}, "none", edit=("other",))


@pytest.mark.parametrize("says_nothing", [CONSTANT, NOISE])
def test_groups_at_their_floor_leave_the_pooled_scale_of_the_others_alone(says_nothing):
    speaking = [scored({"judge": TOLD_APART}), scored({"judge": [0.1, 0.4, 0.3]})]
    alone = compose(speaking, {"judge": 1.0}, "pooled", floors={"judge": 0.01})
    among = compose(
        [*speaking, *[scored({"judge": says_nothing})] * 22], {"judge": 1.0}, "pooled", floors={"judge": 0.01}
    )
    for one, other in zip(alone, among, strict=False):
        assert one.rewards.tobytes() == other.rewards.tobytes()
    assert not any(reward.rewards.any() for reward in among[2:])


def over_all_groups(batch, weights, normalisation):
    """Scales over all groups, whether they vary or not."""
    rewards = [np.zeros(len(group["a"])) for group in batch]
    for name, weight in weights.items():
        parts = [np.array(group[name]) for group in batch]
        if normalisation == "pooled":
            parts = [part - math.fsum(part) / len(part) for part in parts]
        elif normalisation == "minibatch":
            parts = [part - math.fsum(v for p in parts for v in p) / sum(map(len, parts)) for part in parts]
        scale = 1.0
        if normalisation != "none":
            scale = math.sqrt(math.fsum(v for part in parts for v in np.square(part)) / sum(map(len, parts)))
        for reward, part in zip(rewards, parts, strict=True):
            reward += weight * part / scale
    return rewards


@pytest.mark.parametrize("normalisation", ["none", "pooled", "minibatch"])
@given(
    st.lists(
        st.integers(2, 5).flatmap(
            lambda size: st.fixed_dictionaries(dict.fromkeys("ab", st.lists(values, min_size=size, max_size=size)))
        ),
        min_size=1,
        max_size=5,
    )
)
def test_where_all_groups_are_above_their_floor_floors_change_no_bit(normalisation, batch):
    floors = {"a": 0.5, "b": 0.01}
    assume(all(np.std(group[name]) > floor for group in batch for name, floor in floors.items()))
    weights = {"a": 1.5, "b": -0.3}
    found = compose([scored(group) for group in batch], weights, normalisation, floors=floors, edit=("a",))
    for got, expected in zip(found, over_all_groups(batch, weights, normalisation), strict=True):
        assert got.rewards.tobytes() == expected.tobytes()
        assert not got.filtered and not got.edit_zero_variance
