"""Tests of learner.algorithms.anchors."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from editing.trajectory import Lease, TrajectoryGroup
from learner.algorithms.anchors import AnchorBatch, anchor_batch, leaps, relative_distance

STEPS, SIGMAS = (0, 2), np.array([1.0, 0.8, 0.5, 0.0], dtype=np.float32)


def linear(x, sigma):
    """A velocity that depends on both arguments."""
    return 0.3 * x - sigma[:, None, None]


@pytest.fixture
def group() -> TrajectoryGroup:
    """Two trained steps, five candidates, anchors 3 and 1, an exact Euler rollout of `linear`."""
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(5, 6, 2)).astype("f4"))
    states = [x]
    for now, following in pairwise(SIGMAS):
        states.append(states[-1] + (following - now) * linear(states[-1], torch.full((5,), float(now))))
    anchors = np.array([3, 1])
    return TrajectoryGroup(
        lease=Lease(0, 0, 0, 0, 0, 0),
        task_id="t",
        policy_version=0,
        config_hash="",
        noise="",
        sigmas=SIGMAS,
        trained_steps=STEPS,
        anchors=anchors,
        candidates=np.stack([states[s + 1].numpy() for s in STEPS]),
        predecessors=np.stack([states[s].numpy()[anchors] for s in STEPS]),
        images=np.zeros((5, 2, 3, 3), dtype=np.uint8),
        acd=None,
        seconds=0.0,
    )


def batch_of(group, valid=(True, True, False, True, True)) -> AnchorBatch:
    return anchor_batch(
        group,
        np.array(valid),
        torch.arange(5.0),
        torch.tensor([1.0, 0, 0, 1, 0, 0]),
        torch.tensor([1.0, 1, 0, 1, 0, 0]),
        torch.ones(6, 2),
    )


def test_pairs_go_step_by_step_and_hold_their_own_states(group):
    batch = batch_of(group)
    assert batch.pairs == 4
    for pair, (j, b) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert batch.step_of(pair) == j
        np.testing.assert_array_equal(batch.predecessors[pair], group.predecessors[j, b])
        np.testing.assert_array_equal(batch.stored[pair], group.candidates[j, group.anchors[b]])
        assert batch.sigma[pair].item() == SIGMAS[STEPS[j]]
        assert batch.sigma_next[pair].item() == SIGMAS[STEPS[j] + 1]


def test_only_valid_candidates_are_compared_with(group):
    batch = batch_of(group)
    np.testing.assert_array_equal(batch.candidates, group.candidates[:, [0, 1, 3, 4]])
    assert batch.advantages.tolist() == [0, 1, 3, 4]
    # Anchor 1 stays an anchor although it has no score.
    assert batch_of(group, (True, False, True, True, True)).pairs == 4


@pytest.mark.parametrize(("size", "expected"), [(None, [4]), (1, [1, 1, 1, 1]), (3, [3, 1]), (9, [4])])
def test_chunks_cover_all_pairs_once(group, size, expected):
    chunks = batch_of(group).chunks(size)
    assert [rows.stop - rows.start for rows in chunks] == expected
    assert [row for rows in chunks for row in range(rows.start, rows.stop)] == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [None, 3])
def test_leaps_under_the_rollouts_velocity_give_the_stored_states(group, size):
    batch = batch_of(group)
    leaped = leaps(linear, batch, size)
    assert torch.equal(leaped, batch.stored)
    assert relative_distance(leaped, batch.stored, batch, range(batch.pairs)) == 0


def test_relative_distance_is_the_worst_relative_error_of_a_velocity(group):
    batch = batch_of(group)

    def wrong(x, sigma):
        return linear(x, sigma) * (1 + 0.02 * (sigma < 0.9).float()[:, None, None])

    found = relative_distance(leaps(wrong, batch, None), batch.stored, batch, range(batch.pairs))
    assert found == pytest.approx(0.02, rel=1e-3)
    nan = torch.full_like(batch.stored, float("nan"))
    assert np.isnan(relative_distance(nan, batch.stored, batch, [0, 1]))


def test_zero_variance_means_no_advantage_at_all(group):
    batch = batch_of(group)
    assert not batch.is_zero_variance
    assert replace(batch, advantages=torch.zeros(4)).is_zero_variance


@pytest.mark.parametrize("name", ["sigma", "stored", "advantages", "edit_mask", "source", "candidates"])
def test_parts_that_do_not_fit_are_refused(group, name):
    batch = batch_of(group)
    with pytest.raises(ValueError, match="do not fit"):
        replace(batch, **{name: getattr(batch, name)[..., :1]})
