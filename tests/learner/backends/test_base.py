"""How long the driver waits for the processes below it."""

import pytest

from configs.schema import RunConfig
from learner.backends.base import judges_limit, overdue, scoring_limit, step_limit


def config(**judge) -> RunConfig:
    return RunConfig.model_validate(
        {
            "rewards": {"judge": {"patience": 7.0, **judge}},
            "cluster": {"group_timeout": 100.0},
            "learner": {"groups_per_step": 3},
        }
    )


def test_without_judges_only_the_groups_time_counts():
    assert (scoring_limit(config()), step_limit(config())) == (100, 300)
    sentence = str(overdue(config(), 2))
    assert "none of 2 groups for 100 s (cluster.group_timeout)" in sentence and "patience" not in sentence


@pytest.mark.parametrize(
    ("judge", "limit"),
    [
        ({"editscore": {"urls": ["http://a/v1"]}}, 7),
        ({"editscore": {"urls": ["http://a/v1"], "serve": {"start_timeout": 50}}}, 7),
        ({"editscore": {"serve": {"replicas": 1, "path": "p", "start_timeout": 50}}}, 57),
        (
            {
                "editscore": {"serve": {"replicas": 1, "path": "p", "start_timeout": 50}},
                "qwen_vl": {"serve": {"replicas": 2, "path": "p", "start_timeout": 60}},
            },
            67,
        ),
    ],
)
def test_a_judge_may_be_asked_twice_and_servers_have_their_time_to_start(judge, limit):
    assert scoring_limit(config(**judge)) == 114 and judges_limit(config(**judge).rewards.judge) == limit
    assert "114 s (cluster.group_timeout + 2 * rewards.judge.patience)" in str(overdue(config(**judge), 2))


def test_a_scorer_of_ones_own_has_its_time_too():
    own = RunConfig.model_validate(
        {
            "rewards": {"scorers": {"mine": "a.b:c"}, "weights": {"mine": 1.0}, "scorer_deadline": 30.0},
            "cluster": {"group_timeout": 100.0},
        }
    )
    assert scoring_limit(own) == 130
    assert "130 s (cluster.group_timeout + rewards.scorer_deadline)" in str(overdue(own, 2))
