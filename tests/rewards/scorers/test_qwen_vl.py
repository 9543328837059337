import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest

from configs.judges import QwenVlConfig, ServeConfig
from editing.images import decode_image
from rewards.judge.messages import JudgeRefused, JudgesDown, JudgeUnavailable
from rewards.scorers.qwen_vl import QwenVl
from tests.judges.fake import FakeJudge, MemoryCache, digits, response_of
from tests.rewards.scorers.test_editscore import given_of, png_parts

GOOD = digits(0.01, 0.02, 0.07, 0.2, 0.4, 0.25, others={99: 0.05})
VALUE = (0.02 + 0.14 + 0.6 + 1.6 + 1.25) / 0.95 / 5


def score(judge, given, cache=None, **settings):
    scorer = QwenVl(judge, QwenVlConfig(**settings), MemoryCache() if cache is None else cache)
    return asyncio.run(scorer(given))


@pytest.mark.parametrize(("height", "width", "candidates"), [(1, 1, 1), (7, 9, 4), (2, 33, 12)])
def test_values_equal_a_brute_force_in_float64(height, width, candidates):
    given = given_of(candidates, height, width)
    shares = {}
    for i, image in enumerate(given.images):
        logits = np.random.default_rng(i).normal(0, 2, 6)
        shares[image.tobytes()] = 0.8 * np.exp(logits) / np.exp(logits).sum()
    judge = FakeJudge(lambda q: digits(*shares[decode_image(q.parts[-1], "png").tobytes()], others={99: 0.2}))
    got = score(judge, given)
    for image, one in zip(given.images, got, strict=True):
        p = shares[image.tobytes()] / shares[image.tobytes()].sum()
        assert one.value == pytest.approx(float((p * [0, 1, 2, 3, 4, 5]).sum() / 5), abs=1e-12)
        assert one.error is None and one.passes == ()
    assert len(judge.requests) == candidates and judge.notes == [True] * candidates


def test_what_is_asked():
    judge, given = FakeJudge(GOOD, seconds=0.05), given_of(3)
    assert [one.value for one in score(judge, given, requirement="Whiskers")] == pytest.approx([VALUE] * 3)
    assert judge.peak == 3 and judge.tokenized == list("012345")
    for request, image in zip(judge.requests, given.images, strict=True):
        assert (request.max_tokens, request.temperature, request.top_logprobs) == (1, 0.0, 20)
        assert request.allowed_token_ids == (15, 16, 17, 18, 19, 20) and request.json_schema is None
        source, edited = (decode_image(png, "png") for png in png_parts(request))
        assert np.array_equal(source, given.task.source) and np.array_equal(edited, image)
        assert '\\"cat\\" red"</instruction>' in request.parts[2] and '"Whiskers"' in request.parts[2]


def test_digit_ids_come_from_the_served_tokenizer_and_are_asked_for_once():
    ids = dict(zip("012345", [(900,), (4,), (77,), (3,), (12,), (8,)], strict=True))
    response = response_of("4", {900: math.log(0.5), 8: math.log(0.5)} | {ids[d][0]: -40.0 for d in "1234"})
    judge = FakeJudge(response, tokens=ids)

    async def twice():
        scorer = QwenVl(judge, QwenVlConfig(), MemoryCache())
        return [await scorer(given_of(2, seed=seed)) for seed in (1, 2)]

    assert [one.value for group in asyncio.run(twice()) for one in group] == pytest.approx([0.5] * 4)
    assert judge.requests[0].allowed_token_ids == (900, 4, 77, 3, 12, 8)
    assert judge.tokenized == list("012345")


@pytest.mark.parametrize(
    "tokens",
    [
        dict.fromkeys("012345", (15,)),
        {d: (29871, 15 + int(d)) for d in "012345"},
        {d: (15 + int(d),) for d in "01234"} | {"5": ()},
        {d: (15 + int(d),) for d in "01234"} | {"5": (19,)},
    ],
)
def test_digits_that_are_not_one_token_each_are_an_error(tokens):
    judge = FakeJudge(GOOD, tokens=tokens)
    got = score(judge, given_of(2))
    assert judge.requests == [] and all("rewards.judge.qwen_vl" in one.error for one in got)
    assert "one token of its own for each digit 0 to 5, got {'0': " in got[0].error
    with pytest.raises(JudgeRefused):
        asyncio.run(QwenVl(judge, QwenVlConfig(), MemoryCache()).digit_ids())


def test_a_tokenizer_that_does_not_respond_is_asked_again_the_next_time():
    judge, given = FakeJudge(GOOD, tokens=JudgeUnavailable("no server in 9 s")), given_of(2)
    scorer = QwenVl(judge, QwenVlConfig(), MemoryCache())
    errors = asyncio.run(scorer(given))
    assert [one.error for one in errors] == [f"qwen_vl: candidate {i}: no server in 9 s" for i in (0, 1)]
    judge._tokens = None
    assert [one.value for one in asyncio.run(scorer(given))] == pytest.approx([VALUE] * 2)


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (digits(0.01, 0.01, 0.01, 0.01, 0.01, 0.01, others={99: 0.94}), "say something else"),
        (response_of("3"), "got none"),
        (replace(GOOD, text="I like it"), "got 'I like it'"),
        (replace(GOOD, text=""), "got no text"),
        (replace(GOOD, text="6"), "got '6'"),
        (replace(GOOD, text="45"), "got '45'"),
        (digits(0.3, others={token: 0.035 for token in range(100, 119)}), "got 1"),
        (response_of("3", {15 + s: math.nan for s in range(6)}), "got nan"),
    ],
)
def test_too_little_mass_and_missing_probabilities_are_errors_after_one_re_ask(response, words):
    judge, cache = FakeJudge(response), MemoryCache()
    got = score(judge, given_of(2), cache, min_mass=0.2)
    for i, one in enumerate(got):
        assert one.error.startswith(f"qwen_vl: candidate {i}: ") and words in one.error and len(one.error) < 500
    assert len(judge.requests) == 4 and judge.notes == [False] * 4 and cache.values == {}


def test_a_failing_request_is_an_error_of_its_candidate_only_and_judges_down_stops():
    given = given_of(3)

    def with_fault(fault):
        return FakeJudge(
            lambda q: fault if decode_image(q.parts[-1], "png").tobytes() == given.images[2].tobytes() else GOOD
        )

    got = score(with_fault(JudgeUnavailable("away")), given)
    assert [one.error for one in got] == [None, None, "qwen_vl: candidate 2: away"]
    with pytest.raises(JudgesDown, match="gone"):
        score(with_fault(JudgesDown("gone")), given)


def test_the_second_time_scores_come_from_the_cache_by_request(monkeypatch):
    cache, given = MemoryCache(), given_of(2)

    def asked(now=given, **settings):
        judge = FakeJudge(GOOD)
        assert [one.value for one in score(judge, now, cache, **settings)] == pytest.approx([VALUE] * 2)
        return len(judge.requests)

    assert asked() == 2 and asked() == 0
    for change in (
        {"model": "other"},
        {"revision": "2"},
        {"requirement": "Fur"},
        {"min_mass": 0.9},
        {"serve": ServeConfig(path="weights")},
        {"serve": ServeConfig(lora="adapter")},
        {"serve": ServeConfig(arguments=("--quantization", "fp8"))},
        {"serve": ServeConfig(arguments=("--quantization fp8",))},
    ):
        assert asked(**change) == 2
    assert asked(replace(given, images=given.images ^ 1)) == 2
    assert asked(replace(given, task=replace(given.task, instruction="Make it blue"))) == 2
    monkeypatch.setattr("rewards.scorers.qwen_vl.QWEN_VL_PROMPT_VERSION", "next")
    assert asked() == 2


def test_equal_images_are_asked_about_once():
    given = given_of(3)
    judge = FakeJudge(GOOD)
    score(judge, replace(given, images=given.images[[1, 1, 1]]))
    assert len(judge.requests) == 1
