"""Tests of learner.update.admission."""

from dataclasses import replace

import numpy as np
import pytest

from configs.load import config_hash
from configs.schema import RunConfig
from editing.shapes.dataset import ShapesDataset
from editing.trajectory import Lease, TrajectoryGroup
from learner.update.admission import Admission
from rewards.result import GroupScores, Score

TASKS = ShapesDataset("train", 3, 0)
CONFIG = RunConfig.model_validate(
    {
        "sampler": {"group_size": 3, "steps": 2},
        "algorithm": {"type": "rc_grpo", "trained_steps": [0], "anchors": 1},
        "cluster": {"staleness": 2},
    }
)


def group(step=0, slot=0, attempt=0, version=0, **changes) -> TrajectoryGroup:
    made = TrajectoryGroup(
        lease=Lease(step, slot, slot, attempt, 0, version),
        task_id=TASKS[slot].task_id,
        policy_version=version,
        config_hash=config_hash(CONFIG),
        noise="",
        sigmas=np.array([1, 0.5, 0], dtype=np.float32),
        kept_steps=(0,),
        anchors=np.array([1]),
        candidates=np.zeros((1, 3, 4, 2), dtype=np.float32),
        predecessors=np.zeros((1, 1, 4, 2), dtype=np.float32),
        images=np.zeros((3, 8, 8, 3), dtype=np.uint8),
        acd=None,
        seconds=0.0,
    )
    return replace(made, **changes)


def scores(of: TrajectoryGroup, valid: int = 3, **changes) -> GroupScores:
    row = tuple(Score(value=0.5) if i < valid else Score(error="bad") for i in range(3))
    return replace(GroupScores(of.lease.group_id, of.policy_version, {"edit_psnr": row}, 0.0), **changes)


@pytest.fixture
def admission() -> Admission:
    return Admission(CONFIG, TASKS)


def word(admission: Admission, of: TrajectoryGroup, version: int = 0, **changes) -> str | None:
    refusal = admission.refuse(of, scores(of, **changes), version)
    if refusal is None:
        return None
    assert of.lease.group_id in refusal[1]
    return refusal[0]


@pytest.mark.parametrize(("age", "expected"), [(0, None), (2, None), (3, "stale"), (-1, "mismatch")])
def test_staleness_is_bounded_at_consumption(admission, age, expected):
    assert word(admission, group(step=5, version=5 - age), version=5) == expected


def test_a_slot_is_taken_once_whatever_the_attempt(admission):
    assert word(admission, group()) is None
    admission.take(group())
    assert admission.waiting == 1
    assert word(admission, group()) == "duplicate"
    assert word(admission, group(attempt=1)) == "duplicate"
    assert word(admission, group(slot=1)) is None
    admission.trained(1)
    assert admission.waiting == 0
    assert word(admission, group(attempt=1), version=1) == "duplicate"


def test_a_trained_slot_is_remembered_exactly_as_long_as_its_group_is_fresh_enough(admission):
    admission.take(group())
    for version in (1, 2):
        admission.trained(version)
        assert word(admission, group(), version) == "duplicate"
    admission.trained(3)
    assert word(admission, group(), 3) == "stale"
    assert admission.state() == []


def test_memory_survives_a_restart_and_waiting_groups_do_not(admission):
    admission.take(group())
    admission.trained(1)
    admission.take(group(step=1, version=1))
    other = Admission(CONFIG, TASKS)
    other.restore(admission.state())
    assert admission.state() == [[0, 0, 0]] and other.waiting == 0
    assert word(other, group(), 1) == "duplicate"
    assert word(other, group(step=1, version=1), 1) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"config_hash": "other"},
        {"policy_version": 1},
        {"task_id": "another"},
        {"lease": Lease(0, 0, 7, 0, 0, 0)},
        {"lease": Lease(0, 0, -1, 0, 0, 0)},
        {"sigmas": np.array([1, 0.5, 0.2, 0], dtype=np.float32)},
        {"kept_steps": (1,)},
        {"anchors": np.array([1, 2]), "predecessors": np.zeros((1, 2, 4, 2), dtype=np.float32)},
        {"candidates": np.zeros((1, 4, 4, 2), dtype=np.float32), "images": np.zeros((4, 8, 8, 3), dtype=np.uint8)},
    ],
)
def test_what_does_not_belong_to_the_run_is_refused(admission, changes):
    assert word(admission, group(**changes), version=1) == "mismatch"


@pytest.mark.parametrize(
    "changes", [{"group_id": "000009.000.0"}, {"policy_version": 1}, {"components": {"edit_psnr": (Score(value=1.0),)}}]
)
def test_scores_of_something_else_are_refused(admission, changes):
    of = group()
    refusal = admission.refuse(of, scores(of, **changes), 1)
    assert refusal[0] == "mismatch"


@pytest.mark.parametrize(("valid", "expected"), [(3, None), (2, None), (1, "scores"), (0, "scores")])
def test_enough_candidates_must_be_scored(admission, valid, expected):
    assert word(admission, group(), valid=valid) == expected
