import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.algorithms.dual_weight import DualWeight, updated_dual_weight


@given(
    weight=st.floats(1e-3, 1e3),
    measured=st.floats(0, 60),
    target=st.floats(20, 40),
    rate=st.floats(0.01, 1),
    scale=st.floats(0.1, 10),
)
def test_dual_weight_equals_the_formula_and_stays_in_its_bounds(weight, measured, target, rate, scale):
    got = updated_dual_weight(DualWeight(weight), measured, target, rate, scale, low=0.05, high=20.0)
    violation = min(max((target - measured) / scale, -1.0), 1.0)
    assert got.violation == pytest.approx(violation)
    assert got.weight == pytest.approx(min(max(weight * math.exp(rate * violation), 0.05), 20.0))
    assert 0.05 <= got.weight <= 20.0


def test_dual_weight_of_the_docstring():
    got = updated_dual_weight(DualWeight(1.0), 28.0, 30.0, rate=0.1, scale=4.0)
    assert got.weight == pytest.approx(1.0513, abs=1e-4) and got.violation == 0.5


def test_a_violation_and_as_much_slack_cancel_wherever_the_weight_is():
    for start in (0.02, 1.0, 50.0):
        there = updated_dual_weight(DualWeight(start), 29.5, 30.0, 0.1)
        assert updated_dual_weight(there, 30.5, 30.0, 0.1).weight == pytest.approx(start)


def test_one_measurement_changes_the_weight_by_no_more_than_the_rate_says():
    for measured, sign in ((math.inf, -1), (-math.inf, 1), (1e9, -1)):
        got = updated_dual_weight(DualWeight(1.0), measured, 30.0, 0.1)
        assert got == DualWeight(math.exp(0.1 * sign), float(sign))


def test_the_weight_finds_the_constraint_and_does_not_wind_up_at_its_bounds():
    """A background whose PSNR grows with the logarithm of the weight: 30 dB at weight 3."""
    state = DualWeight(0.1)
    for _ in range(300):
        state = updated_dual_weight(state, 30 + 4 * math.log10(state.weight / 3), 30.0, rate=0.1)
    assert state.weight == pytest.approx(3, rel=1e-3) and state.violation == pytest.approx(0, abs=1e-3)
    for _ in range(100):
        state = updated_dual_weight(state, 10.0, 30.0, rate=0.5, high=10.0)
    assert state.weight == 10.0
    assert updated_dual_weight(state, 40.0, 30.0, rate=0.5, high=10.0).weight < 7


def test_state_goes_through_json():
    state = updated_dual_weight(DualWeight(1.0), 28.3, 30.0, 0.1)
    assert DualWeight(**json.loads(json.dumps(asdict(state)))) == state


def test_faults_of_the_dual_weight_are_sentences():
    with pytest.raises(ValueError, match=r"measured: expected the background's PSNR in dB, got NaN"):
        updated_dual_weight(DualWeight(1.0), math.nan, 30.0, 0.1)
    for over in ({"rate": 0.0}, {"scale": 0.0}, {"low": 0.0}, {"low": 2.0, "high": 1.0}, {"target": math.inf}):
        with pytest.raises(ValueError, match="expected a finite target, rate and scale above 0"):
            updated_dual_weight(DualWeight(1.0), 28.0, **{"target": 30.0, "rate": 0.1, **over})
    for weight, violation in ((0.0, 0.0), (-1.0, 0.0), (math.inf, 0.0), (math.nan, 0.0), (1.0, 1.5), (1.0, math.nan)):
        with pytest.raises(ValueError, match=r"expected a weight above 0 and a violation in \[-1, 1\]"):
            DualWeight(weight, violation)
