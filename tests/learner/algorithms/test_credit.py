import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithms.credit import (
    group_advantages,
    is_zero_variance,
    region_advantages,
    step_advantages,
)

# Hundredths: different rewards differ by far more than rounding.
rewards_lists = st.lists(st.integers(-500, 500).map(lambda n: n / 100), min_size=1, max_size=9)


def by_hand(rewards: list[float], exponent: float, damping: float = 0.0) -> list[float]:
    mean = sum(rewards) / len(rewards)
    centred = [r - mean for r in rewards]
    norm = sum(abs(a) ** exponent for a in centred) ** (1 / exponent)
    return [a / (norm / math.sqrt(len(rewards)) + damping) for a in centred]


@given(
    rewards_lists,
    st.sampled_from(["std", "quasi_norm"]),
    st.floats(0.3, 2.0),
    st.sampled_from([0.0, 0.01, 0.5]),
)
def test_advantages_equal_the_formula_written_out(values, kind, p, damping):
    got = group_advantages(torch.tensor(values, dtype=torch.float64), kind=kind, p=p, damping=damping)
    if len(set(values)) < 2:
        assert got.tolist() == [0.0] * len(values)
    else:
        want = by_hand(values, 2.0 if kind == "std" else p, damping)
        assert got.tolist() == pytest.approx(want, rel=1e-9, abs=1e-12)
        assert sum(got.tolist()) == pytest.approx(0.0, abs=1e-9)


def test_std_is_the_population_std():
    got = group_advantages(torch.tensor([1.0, 2.0, 3.0]))
    assert got.dtype == torch.float32
    assert got.tolist() == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)])
    assert group_advantages(torch.tensor([0.2, 0.9])).tolist() == pytest.approx([-1.0, 1.0])


@given(rewards_lists)
def test_quasi_norm_with_p_two_is_the_std(values):
    rewards = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(
        group_advantages(rewards, kind="quasi_norm", p=2.0), group_advantages(rewards), rtol=1e-12, atol=1e-12
    )


def test_quasi_norm_scales_down_even_groups_more_than_groups_with_an_outlier():
    def kept(values):
        rewards = torch.tensor(values)
        return group_advantages(rewards, kind="quasi_norm").norm() / group_advantages(rewards).norm()

    assert kept([0.0, 0.0, 0.0, 0.0, 0.0, 1.0]) > 1.2 * kept([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])


@given(rewards_lists, st.data())
def test_invalid_candidates_get_zero_and_do_not_count(values, data):
    valid = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    poisoned = [v if ok else math.nan for v, ok in zip(values, valid, strict=True)]
    got = group_advantages(torch.tensor(poisoned, dtype=torch.float64), torch.tensor(valid))
    kept = torch.tensor([v for v, ok in zip(values, valid, strict=True) if ok], dtype=torch.float64)
    assert got[~torch.tensor(valid)].tolist() == [0.0] * (len(values) - len(kept))
    torch.testing.assert_close(got[torch.tensor(valid)], group_advantages(kept), rtol=0, atol=0)
    assert got.sum().item() == pytest.approx(0.0, abs=1e-9)


@given(rewards_lists, st.floats(0.01, 100), st.floats(-3, 3))
def test_advantages_ignore_offset_and_scale(values, scale, offset):
    rewards = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(
        group_advantages(scale * rewards + offset), group_advantages(rewards), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["std", "quasi_norm"])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e-30, 1e30])
def test_zero_variance_groups_give_exact_zeros_in_spite_of_rounding(kind, value):
    rewards = torch.full((7,), value, dtype=torch.float32)
    rewards[3] = torch.nextafter(rewards[3], torch.tensor(2 * value))
    assert is_zero_variance(rewards)
    assert torch.equal(group_advantages(rewards, kind=kind), torch.zeros(7))


def test_is_zero_variance_looks_at_valid_candidates_only():
    rewards = torch.tensor([0.5, 0.5, 0.9])
    assert not is_zero_variance(rewards)
    assert is_zero_variance(rewards, torch.tensor([True, True, False]))
    assert is_zero_variance(rewards, torch.tensor([False, False, True]))
    assert is_zero_variance(rewards, torch.tensor([False, False, False]))
    assert is_zero_variance(torch.tensor([0.5, 0.5001]), tolerance=1e-3)
    assert not is_zero_variance(torch.tensor([0.5, 0.5001]))
    # Population std .05, sample std .071.
    assert is_zero_variance(torch.tensor([0.9, 1.0]), tolerance=0.06)
    assert not is_zero_variance(torch.tensor([0.9, 1.0]), tolerance=0.04)


@pytest.mark.parametrize("kind", ["std", "quasi_norm"])
def test_tiny_rewards_do_not_underflow(kind):
    small = group_advantages(torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64) * 1e-200, kind=kind, p=0.3)
    torch.testing.assert_close(
        small, group_advantages(torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), kind=kind, p=0.3)
    )


def test_clip_cuts_outliers_of_large_groups_only():
    def outlier(group):
        return group_advantages(torch.tensor([1.0] + [0.0] * (group - 1), dtype=torch.float64))[0].item()

    assert outlier(12) == pytest.approx(math.sqrt(11))
    assert outlier(26) == pytest.approx(5.0)
    assert outlier(40) == 5.0
    assert group_advantages(torch.tensor([0.0, 1.0]), clip=0.25).tolist() == [-0.25, 0.25]


def test_faults_are_sentences():
    rewards = torch.tensor([0.1, math.nan, 0.3, math.inf])
    with pytest.raises(ValueError, match=r"must be finite, got \[nan, inf\] at candidate\(s\) \[1, 3\]"):
        group_advantages(rewards)
    with pytest.raises(ValueError, match=r"candidate\(s\) \[3\]"):
        is_zero_variance(rewards, torch.tensor([True, False, True, True]))
    with pytest.raises(ValueError, match=r"valid must be bool \[4\]"):
        group_advantages(rewards, torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"valid must be bool \[4\]"):
        group_advantages(rewards, torch.tensor([1, 0, 1, 0]))
    with pytest.raises(ValueError, match=r"one floating-point number per candidate"):
        group_advantages(torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match=r"one floating-point number per candidate"):
        group_advantages(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="kind must be one of std, quasi_norm, got 'rank'"):
        group_advantages(torch.zeros(3), kind="rank")
    for bad in ({"p": 0.0}, {"p": 2.5}, {"clip": 0.0}, {"damping": -1.0}):
        with pytest.raises(ValueError, match="expected 0 < p <= 2"):
            group_advantages(torch.zeros(3), **bad)


@pytest.mark.parametrize("p", [1e-3, 0.01, 0.05, 0.3])
def test_the_quasi_norm_of_a_small_exponent_neither_overflows_nor_is_nan(p):
    rewards = torch.tensor([0.1, 0.5, 0.9, 0.4, 0.2, 0.3], dtype=torch.float64)
    got = group_advantages(rewards, kind="quasi_norm", p=p, clip=1e9)
    centred = [float(r) - 0.4 for r in rewards]
    exact = math.log(sum(math.exp(p * math.log(abs(a))) for a in centred if abs(a) > 1e-12)) / p
    expected = [
        0.0 if abs(a) < 1e-12 else math.copysign(math.exp(math.log(abs(a)) + 0.5 * math.log(6) - exact), a)
        for a in centred
    ]
    assert got.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9 * max(map(abs, expected)))


def test_a_tolerance_that_is_no_number_is_refused():
    for asked in (group_advantages, is_zero_variance):
        with pytest.raises(ValueError, match="tolerance >= 0"):
            asked(torch.tensor([1.0, 2.0]), tolerance=math.nan)


hundredths = st.integers(-500, 500).map(lambda n: n / 100)


@st.composite
def regional(draw) -> tuple[np.ndarray, np.ndarray]:
    """Rewards [G, R] of which the invalid rows are poison, and valid [G]."""
    group, regions = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    values = draw(st.lists(hundredths, min_size=group * regions, max_size=group * regions))
    valid = np.array(draw(st.lists(st.booleans(), min_size=group, max_size=group)))
    rewards = np.array(values).reshape(group, regions)
    rewards[~valid] = draw(st.sampled_from([math.nan, math.inf, 1e9]))
    return rewards, valid


def standardised(rewards: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Brute force: every region by itself, float64."""
    found = np.zeros_like(rewards)
    for region in range(rewards.shape[1]):
        values = rewards[valid, region]
        if len(set(values)) > 1:
            found[valid, region] = (values - values.mean()) / values.std()
    return found


@given(regional())
def test_region_advantages_equal_brute_force(given_rewards):
    rewards, valid = given_rewards
    got = region_advantages(torch.from_numpy(rewards), torch.from_numpy(valid))
    np.testing.assert_allclose(got.numpy(), standardised(rewards, valid), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.sum(dim=0).numpy(), 0, atol=1e-9)
    assert not got[~torch.from_numpy(valid)].any()


@given(regional(), st.sampled_from(["std", "quasi_norm"]), st.floats(0.3, 2), st.sampled_from([0.0, 0.5]), st.data())
def test_region_advantages_are_those_of_each_region_in_any_order(given_rewards, kind, p, damping, data):
    rewards, valid = map(torch.from_numpy, given_rewards)
    got = region_advantages(rewards, valid, kind, p, 1.5, damping)
    for region in range(rewards.shape[1]):
        assert torch.equal(got[:, region], group_advantages(rewards[:, region], valid, kind, p, 1.5, damping))
    candidates = data.draw(st.permutations(range(rewards.shape[0])))
    regions = data.draw(st.permutations(range(rewards.shape[1])))
    shuffled = region_advantages(rewards[candidates][:, regions], valid[candidates], kind, p, 1.5, damping)
    torch.testing.assert_close(shuffled, got[candidates][:, regions], rtol=1e-9, atol=1e-9)


def test_a_region_that_does_not_vary_gives_zeros_for_itself_only():
    rewards = torch.tensor([[0.3, 1.0], [0.3, 2.0], [0.3, 3.0]])
    got = region_advantages(rewards)
    assert got.dtype == torch.float32 and got[:, 0].tolist() == [0.0, 0.0, 0.0]
    assert got[:, 1].tolist() == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)])


groups_of_a_step = st.lists(rewards_lists, min_size=1, max_size=5)


@given(groups_of_a_step, st.sampled_from([0.0, 1e-4, 0.5]), st.data())
def test_step_advantages_equal_brute_force(groups, damping, data):
    valid = [data.draw(st.lists(st.booleans(), min_size=len(group), max_size=len(group))) for group in groups]
    poisoned = [
        [v if ok else math.nan for v, ok in zip(*pair, strict=True)] for pair in zip(groups, valid, strict=True)
    ]
    got = step_advantages(
        [torch.tensor(group, dtype=torch.float64) for group in poisoned],
        [torch.tensor(mask) for mask in valid],
        clip=1e9,
        damping=damping,
    )
    kept = [np.array(group)[np.array(mask)] for group, mask in zip(groups, valid, strict=True)]
    spread = np.concatenate(kept).std() + damping if sum(map(len, kept)) else damping
    for advantages, mask, values in zip(got, valid, kept, strict=True):
        assert not advantages[~torch.tensor(mask)].any()
        want = (values - values.mean()) / spread if len(set(values)) > 1 else np.zeros(len(values))
        np.testing.assert_allclose(advantages[torch.tensor(mask)].numpy(), want, rtol=1e-9, atol=1e-9)
        assert advantages.sum().item() == pytest.approx(0.0, abs=1e-9)


@given(groups_of_a_step, st.data())
def test_step_advantages_do_not_depend_on_the_order_of_groups_or_candidates(groups, data):
    tensors = [torch.tensor(group, dtype=torch.float64) for group in groups]
    got = step_advantages(tensors)
    order = data.draw(st.permutations(range(len(groups))))
    inside = [data.draw(st.permutations(range(len(groups[g])))) for g in order]
    shuffled = step_advantages([tensors[g][inner] for g, inner in zip(order, inside, strict=True)])
    for g, inner, advantages in zip(order, inside, shuffled, strict=True):
        torch.testing.assert_close(advantages, got[g][inner], rtol=1e-9, atol=1e-9)


def test_step_advantages_of_one_group_are_its_own_and_of_several_share_a_spread():
    rewards = torch.tensor([1.0, 2.0, 3.0])
    (alone,) = step_advantages([rewards])
    torch.testing.assert_close(alone, group_advantages(rewards))
    # Deviations of 1 and .25 keep their proportion, and the distance of the groups is part of the spread.
    near, far = step_advantages([torch.tensor([-1.0, 1.0]), torch.tensor([9.75, 10.25])])
    spread = np.array([-1, 1, 9.75, 10.25]).std()
    assert near.dtype == torch.float32
    assert near.tolist() == pytest.approx([-1 / spread, 1 / spread])
    assert far.tolist() == pytest.approx([-0.25 / spread, 0.25 / spread])


def test_step_advantages_of_groups_without_variance_are_exact_zeros_and_of_tiny_rewards_do_not_underflow():
    flat = torch.full((4,), 0.1)
    assert [found.tolist() for found in step_advantages([flat, flat + 1])] == [[0.0] * 4] * 2
    still, varied = step_advantages([flat, torch.tensor([0.1, 0.5])])
    assert still.tolist() == [0.0] * 4 and varied[1] > 0.5
    tiny = step_advantages([torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64) * 1e-200])
    torch.testing.assert_close(tiny, step_advantages([torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)]))
    assert step_advantages([]) == []


def test_the_clip_of_a_step_acts_in_small_groups_too():
    still, varied = step_advantages([torch.zeros(60), torch.tensor([0.0, 1.0])])
    assert not still.any() and varied.abs().max() < 5
    still, varied = step_advantages([torch.zeros(600), torch.tensor([0.0, 1.0])])
    assert not still.any() and varied.tolist() == [-5.0, 5.0]


def test_faults_of_regions_and_steps_are_sentences():
    rewards = torch.tensor([[0.1, math.nan], [0.2, 0.3]])
    with pytest.raises(ValueError, match=r"must be finite, got \[nan\] at candidate\(s\) \[0\]"):
        region_advantages(rewards)
    for bad in (rewards[0], rewards[:, :0], rewards[None]):
        with pytest.raises(ValueError, match=r"one number per candidate and region, \[G, R\]"):
            region_advantages(bad)
    with pytest.raises(ValueError, match=r"valid must be bool \[2\]"):
        region_advantages(rewards, torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="kind must be one of std, quasi_norm, got 'rank'"):
        region_advantages(rewards, kind="rank")
    group = torch.zeros(3)
    with pytest.raises(ValueError, match="one mask of valid candidates per group, 2, got 1"):
        step_advantages([group, group], [None])
    with pytest.raises(ValueError, match=r"must be finite, got \[inf\] at candidate\(s\) \[0\]"):
        step_advantages([group, group + math.inf, group][:2], [None, torch.tensor([True, False, False])])
    for wrong in ({"clip": 0.0}, {"damping": -1.0}, {"damping": math.nan}, {"tolerance": math.nan}):
        with pytest.raises(ValueError, match="damping >= 0 and tolerance >= 0"):
            step_advantages([group], **wrong)
