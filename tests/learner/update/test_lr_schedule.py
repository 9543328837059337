"""Tests of learner.update.lr_schedule."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import OptimizerConfig
from learner.update.lr_schedule import learning_rate


def test_warm_up_then_linear_decay():
    optimizer = OptimizerConfig(lr=1.0, warmup_steps=2, final_lr_fraction=0.2)
    rates = [learning_rate(step, 7, optimizer) for step in range(7)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])


@given(steps=st.integers(1, 50), warmup=st.integers(0, 60), final=st.floats(0, 1), lr=st.floats(1e-6, 1.0))
def test_rates_rise_then_fall_between_their_bounds(steps, warmup, final, lr):
    optimizer = OptimizerConfig(lr=lr, warmup_steps=warmup, final_lr_fraction=final)
    rates = [learning_rate(step, steps, optimizer) for step in range(steps)]
    assert all(0 <= rate <= lr * (1 + 1e-12) for rate in rates)
    rounding = 1e-12 * lr
    assert all(b >= a - rounding for a, b in pairwise(rates[: warmup + 1]))
    assert all(b <= a + rounding for a, b in pairwise(rates[warmup:]))
    if steps > warmup + 1:
        assert rates[-1] == pytest.approx(lr * final)


@pytest.mark.parametrize("step", [-1, 5])
def test_a_step_outside_the_run_is_refused(step):
    with pytest.raises(ValueError, match=r"0\.\.4"):
        learning_rate(step, 5, OptimizerConfig())
