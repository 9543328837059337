"""Tests of learner.algorithms.anchors, and of learner.algorithms.replay over the same group."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from editing.trajectory import Lease, TrajectoryGroup
from learner.algorithms.anchors import AnchorQueries, anchor_queries
from learner.algorithms.base import GroupTensors, group_tensors
from learner.algorithms.replay import Replay, relative_distance, replay_of, replayed

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
        kept_steps=STEPS,
        anchors=anchors,
        candidates=np.stack([states[s + 1].numpy() for s in STEPS]),
        predecessors=np.stack([states[s].numpy()[anchors] for s in STEPS]),
        images=np.zeros((5, 2, 3, 3), dtype=np.uint8),
        acd=None,
        seconds=0.0,
    )


def tensors(group, valid=(True, True, False, True, True), advantages=None) -> GroupTensors:
    return group_tensors(
        group,
        torch.tensor(valid),
        torch.arange(5.0) if advantages is None else advantages,
        torch.tensor([1.0, 0, 0, 1, 0, 0]),
        torch.ones(6, 2),
        (2, 3),
    )


def queries_of(group, **over) -> AnchorQueries:
    return anchor_queries(tensors(group, **over), STEPS)


def replay(group) -> Replay:
    return replay_of(tensors(group), None, None, 0.0)


def test_pairs_go_step_by_step_and_hold_their_own_states(group):
    queries, stored = queries_of(group), replay(group)
    assert queries.count == stored.count == 4
    for pair, (j, b) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert queries.step_of(pair) == stored.step_of(pair) == j
        np.testing.assert_array_equal(queries.x[pair], group.predecessors[j, b])
        np.testing.assert_array_equal(stored.x[pair], group.predecessors[j, b])
        np.testing.assert_array_equal(stored.stored[pair], group.candidates[j, group.anchors[b]])
        assert queries.sigma[pair].item() == stored.sigma[pair].item() == SIGMAS[STEPS[j]]
        assert queries.sigma_next[pair].item() == stored.sigma_next[pair].item() == SIGMAS[STEPS[j] + 1]


def test_only_valid_candidates_are_compared_with(group):
    queries = queries_of(group)
    np.testing.assert_array_equal(queries.candidates, group.candidates[:, [0, 1, 3, 4]])
    assert queries.advantages.tolist() == [0, 1, 3, 4]
    # Anchor 1 stays an anchor although nobody could score it.
    assert queries_of(group, valid=(True, False, True, True, True)).count == 4


@pytest.mark.parametrize(("size", "expected"), [(None, [4]), (1, [1, 1, 1, 1]), (3, [3, 1]), (9, [4])])
def test_chunks_cover_all_pairs_once(group, size, expected):
    chunks = queries_of(group).chunks(size)
    assert [rows.stop - rows.start for rows in chunks] == expected
    assert [row for rows in chunks for row in range(rows.start, rows.stop)] == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [None, 3])
def test_steps_under_the_rollouts_velocity_give_the_stored_states(group, size):
    stored = replay(group)
    made = replayed(linear, stored, size)
    assert torch.equal(made, stored.stored)
    assert relative_distance(made, stored.stored, stored, range(stored.count)) == 0


def test_relative_distance_is_the_worst_relative_error_of_a_velocity(group):
    stored = replay(group)

    def wrong(x, sigma):
        return linear(x, sigma) * (1 + 0.02 * (sigma < 0.9).float()[:, None, None])

    found = relative_distance(replayed(wrong, stored, None), stored.stored, stored, range(stored.count))
    assert found == pytest.approx(0.02, rel=1e-3)
    nan = torch.full_like(stored.stored, float("nan"))
    assert np.isnan(relative_distance(nan, stored.stored, stored, [0, 1]))


@pytest.mark.parametrize("kind", ["sde", "cps", "dance"])
def test_a_noisy_step_is_replayed_with_its_noise_and_measured_without_it(group, kind):
    noise = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(1))
    blank = replay_of(tensors(group), noise, kind, 0.5)
    made = replayed(linear, blank, None)
    stored = replace(blank, stored=made)
    assert relative_distance(replayed(linear, stored, 3), made, stored, range(4)) == 0
    # A velocity that is wrong by 2 percent shows as that, however loud the noise is.
    found = relative_distance(replayed(lambda x, s: 1.02 * linear(x, s), stored, None), made, stored, range(4))
    assert found == pytest.approx(0.02, rel=1e-3)


def test_silent_means_no_advantage_at_all(group):
    assert not tensors(group).is_silent
    assert tensors(group, advantages=torch.zeros(5)).is_silent


@pytest.mark.parametrize("name", ["sigma", "sigma_next", "advantages", "edit_mask", "candidates"])
def test_parts_that_do_not_fit_are_refused(group, name):
    queries = queries_of(group)
    with pytest.raises(ValueError, match="do not fit"):
        replace(queries, **{name: getattr(queries, name)[..., :1]})
