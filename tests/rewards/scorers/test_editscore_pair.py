"""Tests of rewards.scorers.editscore_pair, and of its twins from ground truth."""

import asyncio
import json

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.judges import EditScoreConfig
from configs.load import load_config
from configs.schema import RunConfig
from editing.data import open_tasks
from editing.shapes.editscore import editscore_parts
from rewards.judge.messages import BadResponse, JudgesDown
from rewards.scorer_api import ScoreInput
from rewards.scorers import SCORERS
from rewards.scorers.editscore import EditScore
from rewards.scorers.editscore_pair import COMPONENTS, EditScorePair
from tests.judges.fake import FakeJudge, MemoryCache
from tests.rewards.scorers.test_editscore import edited, given_of, hashed, kind, said

SUCCESS, PRESERVATION = COMPONENTS


def scores(judge, given, cache=None, names=COMPONENTS, **settings):
    """Of both components, asked for at the same time as the pool does."""
    pair = EditScorePair(EditScore(judge, EditScoreConfig(**settings), MemoryCache() if cache is None else cache))

    async def all_of():
        return await asyncio.gather(*(pair.component(name)(given) for name in names))

    return asyncio.run(all_of())


@pytest.mark.parametrize(("passes", "candidates"), [(1, 1), (4, 3)])
def test_both_numbers_come_from_one_request_per_pass(passes, candidates):
    judge, given_ = FakeJudge(lambda q: said(hashed(q))), given_of(candidates)
    success, preservation = scores(judge, given_, passes=passes)
    assert len(judge.requests) == passes * candidates and {kind(q) for q in judge.requests} == {"SC"}
    said_of = {(edited(q), q.seed): hashed(q) for q in judge.requests}
    for i in range(candidates):
        pairs = [said_of[given_.images[i].tobytes(), seed] for seed in range(passes)]
        assert success[i].passes == pytest.approx([a / 25 for a, _ in pairs])
        assert preservation[i].passes == pytest.approx([b / 25 for _, b in pairs])
        assert success[i].value == pytest.approx(np.mean([a / 25 for a, _ in pairs]))
        assert preservation[i].value == pytest.approx(np.mean([b / 25 for _, b in pairs]))


def test_one_component_alone_asks_the_same_and_fills_the_cache_for_the_other():
    cache, given_, judge = MemoryCache(), given_of(2), FakeJudge(lambda q: said(hashed(q)))
    (alone,) = scores(judge, given_, cache, names=(SUCCESS,), passes=2)
    assert len(judge.requests) == 4
    silent = FakeJudge("x")
    assert scores(silent, given_, cache, passes=2)[0] == alone and silent.requests == []
    # They are no scores of EditScore's own, which asks two requests.
    other = FakeJudge()
    asyncio.run(EditScore(other, EditScoreConfig(passes=2), cache)(given_))
    assert len(other.requests) == 8


def test_a_failed_pass_is_an_error_of_its_candidate_in_both_components():
    given_ = given_of(3)
    bad = given_.images[1].tobytes()
    judge = FakeJudge(lambda q: BadResponse("x") if edited(q) == bad and q.seed == 1 else said((20, 15)))
    cache = MemoryCache()
    both = scores(judge, given_, cache, passes=3)
    for name, got, value in zip(COMPONENTS, both, (0.8, 0.6), strict=True):
        assert [one.value for one in got] == [pytest.approx(value), None, pytest.approx(value)]
        assert f"{name}: candidate 1: 1 of 3 passes gave no score; pass 1" in got[1].error
        assert got[1].reason == "bad_response"
    # What did succeed is not asked again.
    again = FakeJudge(said((10, 5)))
    assert scores(again, given_, cache, passes=3)[1][1].passes == pytest.approx((0.6, 0.2, 0.6))
    assert len(again.requests) == 1


def test_judges_down_comes_through():
    with pytest.raises(JudgesDown, match="gone"):
        scores(FakeJudge(lambda q: JudgesDown("gone")), given_of(2))


def test_groups_are_told_apart():
    judge = FakeJudge(lambda q: said(hashed(q)))
    pair = EditScorePair(EditScore(judge, EditScoreConfig(passes=1), MemoryCache()))
    one, other = given_of(2, seed=1), given_of(2, seed=2)

    async def both():
        return await asyncio.gather(pair.component(SUCCESS)(one), pair.component(SUCCESS)(other))

    first, second = asyncio.run(both())
    assert first != second and len(judge.requests) == 4


def test_the_twins_are_the_parts_of_the_benchmarks_truth():
    task = open_tasks(RunConfig()).train[0]
    images = np.stack([task.target, task.source, np.full_like(task.source, 128)])
    parts = editscore_parts(images, task.meta["edit"])
    given_ = ScoreInput(task, images, None)
    success, preservation = (
        [one.value for one in SCORERS[name](given_)]
        for name in ("editscore_success_truth", "editscore_preservation_truth")
    )
    assert success == pytest.approx(parts.success.tolist()) and preservation == pytest.approx(
        parts.minimal_over_editing.tolist()
    )
    assert success[0] == preservation[0] == preservation[1] == 1.0 and success[1] < 0.5 and preservation[2] < 0.5
    bare = given_of(2)
    for name in ("editscore_success_truth", "editscore_preservation_truth"):
        assert all(one.reason == "lacking" and name in one.error for one in SCORERS[name](bare))


def test_a_judge_is_used_by_any_of_its_components_and_by_none_without_a_weight():
    urls = ["--rewards.judge.editscore.urls", "[http://127.0.0.1:8000/v1]"]
    weights = {SUCCESS: 1.0, PRESERVATION: 0.5}
    config = load_config(["--config", "edit_grpo", *urls, "--rewards.weights", json.dumps(weights)])
    assert config.rewards.weights == weights and config.rewards.judge.configured == ("editscore",)
    with pytest.raises(ConfigError, match="gives editscore or editscore_success or editscore_preservation no weight"):
        load_config([*urls, "--rewards.weights", "{edit_psnr: 1.0}"])
    with pytest.raises(
        ConfigError, match=r"editscore_preservation has a weight, but rewards\.judge\.editscore has no urls"
    ):
        load_config(["--rewards.weights", json.dumps(weights)])
    with pytest.raises(ConfigError, match="editscore_success_truth needs the ground truth of the embedded benchmark"):
        load_config(["--config", "spatialflow_grpo", "--data.type", "manifest", "--data.path", "m.jsonl"])
