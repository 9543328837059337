"""That the speed of the runtime measures what it says, in small. No number of seconds is asserted."""

import json
from dataclasses import dataclass

import pytest

from configs.load import load_config
from editing.trajectory import Lease
from evaluation.speed import runtime
from evaluation.speed.runtime import StepTimer, run_loop, shaped, step_and_busy
from evaluation.speed.simulated import SimulatedBackend, Work, scores_of, simulated_config
from learner.state.event_log import read_events


@dataclass
class Clock:
    """A clock that only sleeping moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def run(folder, work, workers=4, steps=6, groups=8, staleness=1):
    config, clock = shaped(load_config([]), workers, steps, groups, staleness), Clock()
    timer = StepTimer(clock)
    run_loop(config, SimulatedBackend(config, work, clock, clock.sleep), folder, timer)
    return timer


def test_alone_each_takes_what_was_asked_for(tmp_path):
    for name, work, seconds in (("rollout", Work(rollout=2.0), 4.0), ("learner", Work(group=0.5, update=1.0), 5.0)):
        (tmp_path / name).mkdir()
        assert run(tmp_path / name, work).steps() == pytest.approx([seconds] * 5)


def test_in_turns_it_takes_their_sum_and_at_once_the_longer(tmp_path):
    work = Work(rollout=2.0, group=0.25, update=1.0)  # 4 s of rollout, 3 s of learning
    for staleness in (0, 1):
        (tmp_path / str(staleness)).mkdir()
    # On-policy the learner takes groups while others are rolled out: only the last four and the update are in turns.
    assert run(tmp_path / "0", work, staleness=0).steps() == pytest.approx([4.0 + 4 * 0.25 + 1.0] * 5)
    steps = run(tmp_path / "1", work, staleness=1).steps()
    assert max(steps[:-1]) < 4.0 * 1.3 and min(steps) >= 3.0


def test_a_simulated_run_trains_every_slot_once_and_no_group_too_late(tmp_path):
    run(tmp_path, Work(rollout=1.0, jitter=0.5), staleness=2)
    trained = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "trained"]
    assert len({event["group"] for event in trained}) == len(trained) == 6 * 8
    ages = {event["step"] - event["version"] for event in trained}
    assert max(ages) > 0 and ages <= {0, 1, 2}


def test_jitter_spreads_and_keeps_the_mean():
    def lease(seed: int) -> Lease:
        return Lease(0, 0, 0, 0, seed, 0)

    work = Work(rollout=2.0, jitter=0.5)
    seconds = [work.rollout_of(lease(seed)) for seed in range(1000)]
    assert min(seconds) == 1.0 and max(seconds) == 3.0 and sum(seconds) / 1000 == pytest.approx(2.0)
    assert Work(rollout=2.0).rollout_of(lease(7)) == 2.0


def test_rollout_and_learner_are_balanced_where_they_overlap():
    assert runtime.alone(runtime.BALANCED) == pytest.approx(1.2)
    assert runtime.alone(runtime.AT_THE_END) == pytest.approx(1.2)
    assert runtime.AT_THE_END.update == pytest.approx(
        runtime.STEP_GROUPS * runtime.BALANCED.group + runtime.BALANCED.update
    )
    assert runtime.alone(Work(rollout=4.0)) == 12.0 and runtime.alone(Work(group=1.0, update=2.0)) == 14.0


def test_a_learner_that_streams_and_one_that_works_at_the_step_s_end_are_measured(monkeypatch):
    asked = []

    def overlapped(config, work, staleness, steps):
        asked.append((work.group > 0, staleness))
        return [1.2] * steps, [0.9] * steps

    monkeypatch.setattr(runtime, "overlapped", overlapped)
    rows = runtime.measure_overlap(load_config([]), 2)
    assert asked == [(streams, staleness) for streams in (True, False) for staleness in (0, 1, 2)]
    assert [row.goal for row in rows] == [1.10, None, None] * 4 and rows[0].ratio.median == pytest.approx(1.0)
    assert ["gradients in update()" in row.name for row in rows] == [False] * 6 + [True] * 6
    assert [row.ratio.median for row in rows[2::3]] == pytest.approx([0.25] * 4)


def test_the_coordinator_is_measured_at_every_size(monkeypatch):
    monkeypatch.setattr(runtime, "FLEETS", (1, 3, 9))
    monkeypatch.setattr(runtime, "GROUPS", 4)
    rows = runtime.measure_coordinator(load_config([]), 2)
    assert [row.name.rpartition(": ")[2] for row in rows] == ["3 workers / 1", "9 workers / 1"]
    assert all(row.ratio.count == 2 and row.numerator.median > 0 for row in rows)


def test_a_steps_own_seconds_and_the_learners(tmp_path):
    lines = [
        {"kind": "base"},
        {
            "kind": "step",
            "system/seconds_step": 5.0,
            "system/seconds_checkpoint": 1.0,
            "learner/accumulate_seconds": 2.0,
            "learner/optimizer_seconds": 0.5,
        },
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert step_and_busy(tmp_path / "metrics.jsonl") == [(4.0, 2.5)]


def test_scores_teach_something():
    scores = scores_of(Lease(0, 0, 0, 0, 1, 3), 4)
    assert scores.policy_version == 3 and len({score.value for score in scores.components["background_psnr"]}) == 4
    assert simulated_config(load_config([]), staleness=2).cluster.staleness == 2


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_sleeping_processes_go_through_the_real_fleet(ray_cluster, monkeypatch):
    monkeypatch.setattr(runtime, "STEP_GROUPS", 3)
    seconds, busy = runtime.overlapped(load_config([]), Work(rollout=0.02, group=0.01, update=0.01), 1, 2)
    # Sleeping never ends early: three groups and an update.
    assert len(seconds) == len(busy) == 2 and min(busy) >= 0.04


@pytest.mark.ray
@pytest.mark.slow
def test_publishing_proves_what_was_published(ray_cluster):
    import ray

    from evaluation.speed.publish import OPTIONS, Holder, compare

    learner, *workers = (ray.remote(Holder).options(**OPTIONS).remote(8, 2, 3, number) for number in range(3))
    before = [ray.get(one.publish.options(num_returns=1).remote())[1].fingerprint for one in (learner, *workers)]
    assert len(set(before)) == 3
    rows = compare("tiny", learner, workers, 2, 1.2)
    assert [row.goal for row in rows] == [1.2, None] and all(row.ratio.count == 2 for row in rows)
    assert rows[0].name == "publish with proof to 2 nodes, tiny / bare put and get"
    after = [ray.get(one.publish.options(num_returns=1).remote())[1].fingerprint for one in (learner, *workers)]
    assert set(after) == {before[0]}
    for one in (learner, *workers):
        ray.kill(one)


def test_the_adapters_of_publishing_have_the_sizes_that_they_say():
    from evaluation.speed.publish import ADAPTERS, Layer

    for name, (width, rank, layers) in ADAPTERS.items():
        values = sum(parameter.numel() for parameter in Layer(width, rank).parameters())
        assert values == 2 * width * rank
        assert float(name.split()[0]) * 1e6 == pytest.approx(4 * layers * values, rel=0.05)
