import asyncio
import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.judges import EditScoreConfig, ServeConfig
from editing.images import decode_image
from editing.task import EditTask
from rewards.judge.messages import BadResponse, JudgeRefused, JudgesDown, JudgeUnavailable
from rewards.judge.parsing import PAIR_SCHEMA
from rewards.scorer_api import ScoreInput
from rewards.scorers.editscore import EditScore, overall
from tests.judges.fake import FakeJudge, MemoryCache, response_of

PAIRS = st.tuples(st.integers(0, 25), st.integers(0, 25))


def given_of(candidates=3, height=7, width=9, seed=0, instruction='Make the "cat" red'):
    rng = np.random.default_rng(seed)
    task = EditTask(
        "t", rng.integers(0, 256, (height, width, 3), dtype=np.uint8), np.eye(height, width, dtype=bool), instruction
    )
    return ScoreInput(task, rng.integers(0, 256, (candidates, height, width, 3), dtype=np.uint8), None)


def score(judge, given, cache=None, **settings):
    scorer = EditScore(judge, EditScoreConfig(**settings), MemoryCache() if cache is None else cache)
    return asyncio.run(scorer(given))


def png_parts(request):
    return [part for part in request.parts if isinstance(part, bytes)]


def edited(request):
    return decode_image(request.parts[-1], "png").tobytes()


def kind(request):
    return "SC" if len(png_parts(request)) == 2 else "PQ"


def hashed(request):
    """Two scores 0..25 that depend on the images, the kind of request and the seed."""
    digest = hashlib.sha256(b"|".join([*png_parts(request), b"%d" % request.seed])).digest()
    return [digest[0] % 26, digest[1] % 26]


def said(pair):
    return json.dumps({"reasoning": "as asked", "score": list(pair)})


@given(PAIRS, PAIRS)
def test_a_pass_is_the_root_of_the_product_of_the_smaller_scores(sc, pq):
    """By hand in float64, in the order of the released code: to 0..10 first, then the root."""
    o = np.sqrt(np.float64(min(sc)) / (25 / 10) * (np.float64(min(pq)) / (25 / 10)))
    assert overall(sc, pq) == pytest.approx(float(o) / 10, abs=1e-12) and 0 <= overall(sc, pq) <= 1
    assert overall((25, 25), (25, 25)) == 1.0 and overall((0, 25), pq) == overall(sc, (25, 0)) == 0.0


@pytest.mark.parametrize(("height", "width", "passes", "candidates"), [(1, 1, 1, 1), (7, 9, 4, 3), (31, 2, 3, 12)])
def test_values_equal_a_brute_force_over_all_responses(height, width, passes, candidates):
    judge, given_ = FakeJudge(lambda q: said(hashed(q))), given_of(candidates, height, width)
    got = score(judge, given_, passes=passes)
    responses = {(kind(q), q.parts[-1], q.seed): hashed(q) for q in judge.requests}
    assert len(judge.requests) == len(responses) == 2 * passes * candidates
    png = {edited(q): q.parts[-1] for q in judge.requests}
    for i, one in enumerate(got):
        of_this = png[given_.images[i].tobytes()]
        want = [
            math.sqrt(min(responses["SC", of_this, k]) * 0.4 * min(responses["PQ", of_this, k]) * 0.4) / 10
            for k in range(passes)
        ]
        assert one.error is None and one.passes == pytest.approx(want)
        assert one.value == pytest.approx(np.mean(want))
    assert judge.notes == [True] * len(judge.requests)


def test_what_is_asked():
    judge, given_ = FakeJudge(), given_of(2)
    score(judge, given_, passes=3, temperature=0.6, top_p=0.8, top_k=7, max_tokens=99)
    assert sorted((kind(q), q.seed) for q in judge.requests) == sorted(
        (which, seed) for which in ("SC", "PQ") for seed in range(3) for _ in range(2)
    )
    for request in judge.requests:
        assert (request.temperature, request.top_p, request.top_k, request.max_tokens) == (0.6, 0.8, 7, 99)
        assert request.json_schema == PAIR_SCHEMA and not request.allowed_token_ids
        seen = [decode_image(png, "png") for png in png_parts(request)]
        text = "".join(part for part in request.parts if isinstance(part, str))
        assert any(np.array_equal(seen[-1], image) for image in given_.images)
        if kind(request) == "SC":
            assert np.array_equal(seen[0], given_.task.source)
            assert '<instruction>"Make the \\"cat\\" red"</instruction>' in text
        else:
            assert len(seen) == 1 and "cat" not in text


def test_everything_is_asked_at_the_same_time():
    judge = FakeJudge(seconds=0.05)
    score(judge, given_of(5), passes=4)
    assert judge.peak == 2 * 4 * 5


@pytest.mark.parametrize("text", ["", "5", '{"reasoning": "", "score": [26, 3]}', '{"reasoning": "", "score": [1'])
def test_an_unusable_response_is_asked_for_once_more_at_temperature_0(text):
    judge = FakeJudge(lambda q: text if q.temperature and q.seed == 1 and kind(q) == "SC" else said((20, 15)))
    (got,) = score(judge, given_of(1), passes=3)
    assert got.value == pytest.approx(0.6) and got.passes == pytest.approx((0.6,) * 3)
    again = [q for q in judge.requests if q.temperature == 0]
    assert [(kind(q), q.seed) for q in again] == [("SC", 1)]
    assert replace(again[0], temperature=0.7) in judge.requests
    assert sorted(judge.notes) == [False] + [True] * 6


def test_a_second_unusable_response_is_an_error_that_names_judge_candidate_pass_and_text():
    given_ = given_of(3)
    bad = given_.images[1].tobytes()

    def reply(request):
        wrong = kind(request) == "PQ" and request.seed == 2 and edited(request) == bad
        return response_of("11/10, lovely " + "x" * 9999, finish_reason="length") if wrong else said((20, 15))

    judge, cache = FakeJudge(reply), MemoryCache()
    got = score(judge, given_, cache, passes=4)
    assert [one.value is None for one in got] == [False, True, False] and got[1].passes == ()
    for words in ("editscore", "candidate 1", "1 of 4 passes", "pass 2", "11/10, lovely", "http://fake/v1", "'length'"):
        assert words in got[1].error
    assert len(got[1].error) < 700
    assert judge.notes.count(False) == 2 and len(cache.values) == 3 * 4 - 1
    # What did succeed is not asked again, and the candidate comes out whole when the judge is well.
    second = FakeJudge(said((10, 10)))
    again = score(second, given_, cache, passes=4)
    assert len(second.requests) == 2 and all(one.error is None for one in again)
    assert again[1].passes == pytest.approx((0.6, 0.6, 0.4, 0.6))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (JudgeUnavailable("no server in 9 s"), "unavailable"),
        (JudgeRefused("400: too long"), "refused"),
        (BadResponse("x"), "bad_response"),
    ],
)
def test_a_request_that_fails_is_an_error_of_its_candidate_only(fault, reason):
    given_ = given_of(3)
    judge = FakeJudge(lambda q: fault if edited(q) == given_.images[0].tobytes() else said((20, 15)))
    got = score(judge, given_, passes=2)
    assert [one.value for one in got] == [None, pytest.approx(0.6), pytest.approx(0.6)]
    assert "editscore: candidate 0: 2 of 2 passes" in got[0].error and str(fault) in got[0].error
    assert got[0].reason == reason


def test_judges_down_stops_everything_and_what_is_under_way_is_given_up():
    asked = 0

    def reply(request):
        nonlocal asked
        asked += 1
        return JudgesDown("8 requests in a row") if asked == 3 else said((1, 1))

    judge = FakeJudge(reply)
    with pytest.raises(JudgesDown, match="8 requests in a row"):
        score(judge, given_of(4))
    assert judge.active == 0


def test_judges_down_from_the_count_of_bad_responses_comes_through_too():
    judge = FakeJudge("nonsense", note_raises=JudgesDown("26 % of the last 200 responses"), seconds=0.01)
    with pytest.raises(JudgesDown, match="26 %"):
        score(judge, given_of(2))
    assert judge.active == 0


@pytest.mark.parametrize("graver", ["SC", "PQ"])
def test_judges_down_is_not_hidden_by_a_lesser_fault_at_the_same_moment(graver):
    judge = FakeJudge(lambda q: JudgesDown("gone") if kind(q) == graver else BadResponse("x"))
    with pytest.raises(JudgesDown, match="gone"):
        score(judge, given_of(1), passes=1)


def test_a_cancelled_call_leaves_no_request_behind():
    judge = FakeJudge(seconds=60)

    async def run():
        call = asyncio.ensure_future(EditScore(judge, EditScoreConfig(), MemoryCache())(given_of(2)))
        async with asyncio.timeout(30):
            while judge.active < 16:
                await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return judge.active

    assert asyncio.run(run()) == 0 and judge.cancelled == len(judge.requests) == 16


def test_the_second_time_scores_come_from_the_cache():
    cache, given_, first, second = MemoryCache(), given_of(3), FakeJudge(lambda q: said(hashed(q))), FakeJudge("x")
    want = score(first, given_, cache, passes=2)
    assert score(second, given_, cache, passes=2) == want and second.requests == []
    assert (cache.hits, cache.misses) == (6, 6)


def test_more_passes_ask_for_the_new_ones_only():
    cache, given_ = MemoryCache(), given_of(2)
    score(FakeJudge(), given_, cache, passes=2)
    judge = FakeJudge()
    score(judge, given_, cache, passes=3)
    assert [q.seed for q in judge.requests] == [2] * 4


def test_equal_images_are_asked_about_once_and_score_the_same():
    given_ = given_of(3)
    given_ = replace(given_, images=given_.images[[0, 1, 0]])
    judge = FakeJudge(lambda q: said(hashed(q)))
    got = score(judge, given_, passes=2)
    assert got[0] == got[2] != got[1] and len(judge.requests) == 2 * 2 * 2


CHANGES = [
    {"model": "other"},
    {"revision": "2"},
    {"temperature": 0.5},
    {"top_p": 0.8},
    {"top_k": 5},
    {"max_tokens": 400},
    {"serve": ServeConfig(path="weights")},
    {"serve": ServeConfig(lora="adapter")},
    {"serve": ServeConfig(arguments=("--quantization=fp8",))},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_another_judge_or_another_sampling_is_another_score(change):
    cache, given_ = MemoryCache(), given_of(1)
    score(FakeJudge(), given_, cache, passes=1)
    judge = FakeJudge()
    score(judge, given_, cache, passes=1, **change)
    assert len(judge.requests) == 2


def test_another_image_source_instruction_or_wording_is_another_score(monkeypatch):
    cache, given_ = MemoryCache(), given_of(1)

    def asked(now):
        judge = FakeJudge()
        score(judge, now, cache, passes=1)
        return len(judge.requests)

    assert asked(given_) == 2 and asked(given_) == 0
    assert asked(replace(given_, images=given_.images ^ 1)) == 2
    assert asked(replace(given_, task=replace(given_.task, source=given_.task.source ^ 1))) == 2
    assert asked(replace(given_, task=replace(given_.task, instruction="Make it blue"))) == 2
    # Where the task came from and what it masks does not change the request.
    assert asked(replace(given_, task=replace(given_.task, task_id="u", edit_mask=~given_.task.edit_mask))) == 0
    monkeypatch.setattr("rewards.scorers.editscore.EDITSCORE_PROMPT_VERSION", "next")
    assert asked(given_) == 2


@pytest.mark.parametrize("nonsense", [1.5, -0.1, math.nan, math.inf])
def test_a_cached_number_that_is_no_score_is_asked_again(nonsense):
    cache, given_ = MemoryCache(), given_of(1)
    score(FakeJudge(), given_, cache, passes=1)
    cache.values = dict.fromkeys(cache.values, nonsense)
    (got,) = score(FakeJudge(), given_, cache, passes=1)
    assert got.value == pytest.approx(0.6) and list(cache.values.values()) == [got.value]


def test_errors_are_never_cached():
    cache = MemoryCache()
    for judge in (FakeJudge("nonsense"), FakeJudge(JudgeUnavailable("away")), FakeJudge(JudgeRefused("no"))):
        assert all(one.error for one in score(judge, given_of(2), cache))
    assert cache.values == {}


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (
            replace(response_of("I look " * 9, finish_reason="length"), field="reasoning_content"),
            ("left the content empty and wrote this into reasoning_content", '{"enable_thinking": false}', "is 512"),
        ),
        (
            response_of("<think>I look", finish_reason="length"),
            ("began to think", '{"enable_thinking": false}', "is 512"),
        ),
        (
            response_of('{"reasoning": "I', finish_reason="length"),
            ("raise rewards.judge.editscore.max_tokens", "is 512"),
        ),
        (response_of(""), ("got no text",)),
        (response_of("I cannot help with that."), ("I cannot help with that.",)),
    ],
)
def test_an_error_says_what_to_set_where_the_response_shows_it(response, words):
    judge = FakeJudge(response)
    (got,) = score(judge, given_of(1), passes=1)
    assert all(word in got.error for word in words) and "''" not in got.error
    # The sentence that stops a run is made of what the judge is told.
    assert all(word in told for word in words for told in judge.reasons) and judge.reasons


def test_a_pair_that_was_filed_under_reasoning_is_read():
    pair = replace(response_of('{"reasoning": "", "score": [20, 15]}'), field="reasoning")
    (got,) = score(FakeJudge(pair), given_of(1), passes=1)
    assert got.value == pytest.approx(0.6)
