"""The speed of the core on the tiny model: that it measures what it says. No number of seconds is asserted."""

import json
import sys
from itertools import count

import numpy as np
import pytest
import torch

from actors.rollout import roll_out
from configs.load import load_config
from editing.trajectory import Lease
from evaluation.speed import core, table, timing
from evaluation.statistics import Spread


@pytest.fixture(scope="module")
def bench(tiny_kontext):
    config = load_config(
        [
            "--editor.path",
            str(tiny_kontext),
            "--sampler.group_size",
            "3",
            "--learner.groups_per_step",
            "2",
            "--data.train_tasks",
            "4",
            "--data.held_out_tasks",
            "1",
            "--editor.max_text_tokens",
            "10",
        ]
    )
    return core.open_bench(config)[0]


def test_the_plain_editor_has_no_adapter_and_the_policy_has(bench):
    assert not any("lora" in name for name, _ in bench.plain.transformer.named_parameters())
    assert any("lora" in name for name, _ in bench.policy.transformer.named_parameters())


def test_rollout_rows(bench):
    rows = core.measure_rollout(bench, 2)
    assert [row.goal for row in rows] == [1.10, None, None, None, 1.05]
    for row in rows:
        assert row.ratio.count == row.numerator.count == row.denominator.count == 2
        assert row.numerator.median > 0 and row.denominator.median > 0
    assert "decode" not in vars(bench.policy)  # the method is back


def test_a_whole_rollout_is_what_a_user_waits_for(bench):
    """Decoding is in it, and what it is compared with has neither that nor the adapter."""
    bare, whole, adapter, decoding, _ = core.measure_rollout(bench, 1)
    assert "decoding included" in whole.name and "without adapter" in whole.name
    # With one repetition every median is the one number that there is.
    without, adapted = bare.numerator.median, bare.denominator.median
    assert whole.numerator.median == pytest.approx(without + decoding.numerator.median)
    assert whole.denominator.median == adapter.denominator.median and adapter.numerator.median == adapted


def test_recorded_forwards_are_those_of_the_rollout(bench):
    group = lease_group(bench)
    with timing.recorded_calls(bench.policy.transformer) as calls:
        roll_out(bench.policy, bench.tasks.train[0], group.lease, bench.config, "hash")
    assert len(calls) == bench.config.sampler.steps
    assert [call["hidden_states"].shape[0] for call in calls] == [3] * 4
    with torch.inference_mode():
        velocity = bench.policy.transformer(**calls[3])[0][:, :64]
    last = group.candidates[-1]  # step 3 leads to sigma 0; its predecessors are at sigma 3
    anchor = group.anchors[0]
    step = float(group.sigmas[4] - group.sigmas[3]) * velocity[anchor].numpy()
    np.testing.assert_allclose(group.predecessors[-1, 0] + step, last[anchor], atol=1e-5)
    with timing.recorded_calls(bench.policy.transformer) as after:
        pass
    assert after == [] and len(calls) == 4


def test_decoding_is_timed_apart(bench):
    ticks = count()
    with timing.timed_decoding(bench.policy, lambda: float(next(ticks))) as seconds:
        first = lease_group(bench)
        lease_group(bench)
    assert seconds == [1.0, 1.0]
    np.testing.assert_array_equal(lease_group(bench).images, first.images)
    assert len(seconds) == 2


def lease_group(bench):
    return roll_out(bench.policy, bench.tasks.train[0], Lease(0, 0, 0, 0, 7, 0), bench.config, "hash")


def test_learner_rows(bench):
    before = {name: p.detach().clone() for name, p in bench.policy.transformer.named_parameters() if "lora" in name}
    rows = core.measure_learner(bench, 2)
    assert [row.goal for row in rows] == [1.15, None, None, None]
    assert all(row.ratio.count == 2 and row.numerator.median > 0 for row in rows)
    # The rate is so small that the rollouts stay on-policy (else the learner's own gate would have refused).
    for name, parameter in bench.policy.transformer.named_parameters():
        if name in before:
            assert (parameter - before[name]).abs().max() < 1e-9


def test_interleaving_warms_up_and_begins_with_another_measure_each_time():
    order: list[str] = []

    def measure(name, seconds):
        def one():
            order.append(name)
            return seconds

        return one

    found = timing.interleaved([measure("a", 1.0), measure("b", 2.0), measure("c", 3.0)], 2)
    assert found == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    assert "".join(order) == "abc" + "abc" + "bca"


def test_timed_work_is_the_difference_of_two_readings():
    readings = iter([10.0, 12.5])
    done = []
    assert timing.timed(lambda: done.append(1), lambda: next(readings))() == 2.5 and done == [1]


def test_the_clock_follows_device_and_threads():
    cpu = torch.device("cpu")
    assert timing.clock_for(cpu, 1)[1].startswith("CPU seconds")
    assert timing.clock_for(cpu, 2)[1].startswith("wall seconds")


def test_steps_are_read_without_the_first_and_without_checkpoints(tmp_path):
    lines = [
        {"kind": "base", "step": 0, "system/seconds_evaluation": 9.0},
        {"kind": "step", "step": 1, "system/seconds_step": 3.0},
        {"kind": "step", "step": 2, "system/seconds_step": 2.5, "system/seconds_checkpoint": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert core.step_seconds(tmp_path / "metrics.jsonl") == [3.0, 2.0]


def test_a_loop_run_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="ended with status 1"):
        core.loop_steps(str(tmp_path), "x", [])


@pytest.mark.parametrize(("goal", "reached"), [(2.0, True), (1.9, False), (None, None)])
def test_a_goal_is_reached_at_the_median(goal, reached):
    row = table.ratio("name", [2.0, 4.0, 9.0], [1.0, 2.0, 3.0], goal)
    assert row.ratio == Spread(2.0, 2.0, 2.5, 3) and row.reached is reached
