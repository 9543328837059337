import json
import math

import jsonschema
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rewards.judge.messages import BadResponse
from rewards.judge.parsing import DIGITS, MAX_HIDDEN_SHIFT, PAIR_SCHEMA, excerpt, expected_digit, parse_pair, unwrapped

IDS = (15, 16, 17, 18, 19, 20)


def response(score="[20, 15]", reasoning='"well done"'):
    return f'{{"reasoning": {reasoning}, "score": {score}}}'


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        (response(), (20.0, 15.0)),
        (response("[0,25]"), (0.0, 25.0)),
        (response("[12.5, 2.5e1]"), (12.5, 25.0)),
        (" \n" + response("[\n 1 ,\t2 ]") + "  \n\n", (1.0, 2.0)),
        ('{"score": [3, 4], "reasoning": ""}', (3.0, 4.0)),
        (response("[1, 2]", '"say \\"no\\" {\\u00e9} [9, 9]"'), (1.0, 2.0)),
    ],
)
def test_a_pair_is_read(text, pair):
    got = parse_pair(text)
    assert got == pair and all(type(one) is float for one in got)


BAD = [
    "",
    "   ",
    "null",
    "true",
    "7",
    "[20, 15]",
    '"[20, 15]"',
    "I like this picture very much.",
    "20, 15",
    "```json\n" + response() + "\n```",
    "Sure: " + response(),
    response() + " [3, 4]",
    response() + response(),
    "{}",
    '{"score": [20, 15]}',
    '{"reasoning": "x"}',
    '{"reasoning": "x", "scores": [20, 15]}',
    '{"reasoning": "x", "score": [20, 15], "more": 1}',
    '{"reasoning": "x", "score": [1, 2], "score": [20, 15]}',
    '{"reasoning": "x", "reasoning": "y", "score": [20, 15]}',
    response(reasoning="null"),
    response(reasoning="3"),
    response(reasoning='["x"]'),
    *(
        response(score)
        for score in (
            "[]",
            "[20]",
            "[20, 15, 10]",
            "20",
            "null",
            '"20, 15"',
            '{"success": 20, "other": 15}',
            "[[20, 15]]",
            "[[20], [15]]",
            '["20", "15"]',
            "[true, true]",
            "[true, 15]",
            "[20, null]",
            "[20, {}]",
            "[NaN, NaN]",
            "[NaN, 15]",
            "[Infinity, 15]",
            "[20, -Infinity]",
            "[nan, 15]",
            "[26, 15]",
            "[25.0001, 15]",
            "[20, -0.001]",
            "[20, -1]",
            "[1e999, 15]",
            "[-1e999, 15]",
            "[9" + "0" * 400 + ", 1]",
            "[" + "9" * 5000 + ", 1]",
            "[20 15]",
            "[20, 15,]",
            "[20, 015]",
            "[+20, 15]",
            "[0x10, 15]",
            "[11/10, 15]",
            "11/10",
            "[20, 15",
            "[20, 1",
        )
    ),
    "[" * 100_000,
    '{"a":' * 50_000,
    response("[" * 50_000 + "1, 2" + "]" * 50_000),
    "\ufeff" + response(),
    "\x00",
    "\ud800",
    response(reasoning='"a\nb"'),
    "'" + response() + "'",
    response().replace('"', "'"),
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_anything_else_is_a_bad_response_and_the_sentence_is_short(text):
    with pytest.raises(BadResponse, match=r"expected .*two numbers from 0 to 25; got ") as caught:
        parse_pair(text)
    sentence = str(caught.value)
    assert len(sentence) < 700 and "\n" not in sentence
    sentence.encode()


@pytest.mark.parametrize("text", [response(), response("[12.5, 25]", '"a, [1, 2]} \\" b"')])
def test_no_truncated_response_is_read(text):
    for length in range(len(text)):
        with pytest.raises(BadResponse):
            parse_pair(text[:length])


SCORE_SCHEMA = {**PAIR_SCHEMA["properties"]["score"], "items": {"type": "number", "minimum": 0, "maximum": 25}}
FRACTIONS_TOO = jsonschema.Draft202012Validator(
    {**PAIR_SCHEMA, "properties": {**PAIR_SCHEMA["properties"], "score": SCORE_SCHEMA}}
)

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([0, 25, 25.5, -1, 11]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["score", "reasoning", "x"]), inner),
    max_leaves=12,
)
NEARLY = st.fixed_dictionaries({"reasoning": st.text(max_size=8) | ANY_JSON, "score": st.lists(ANY_JSON, max_size=3)})


@settings(max_examples=250)
@given(st.text(st.characters(codec=None)) | ANY_JSON.map(json.dumps) | NEARLY.map(json.dumps))
def test_fuzz_never_anything_but_a_valid_pair_or_a_bad_response(text):
    check_against_jsonschema(text)


@settings(max_examples=250)
@given(st.data())
def test_fuzz_a_good_response_with_damage(data):
    text = response(json.dumps(data.draw(st.lists(st.integers(-3, 30) | st.floats(), min_size=1, max_size=3))))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 3))
        text = text[:at] + data.draw(st.text('{}[]",:0123456789.eE+- naNtrue\\', max_size=3)) + text[at + cut :]
    check_against_jsonschema(text)


def check_against_jsonschema(text):
    """The parser takes a text exactly when it is JSON without NaN or double keys that fits the schema, with any number
    in range in the place of an integer."""
    twice = False

    def once(pairs):
        nonlocal twice
        twice |= len({key for key, _ in pairs}) < len(pairs)
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=once)
        FRACTIONS_TOO.validate(found)
        # jsonschema lets NaN pass any bound.
        valid = not twice and all(0 <= number <= 25 for number in found["score"])
    except (ValueError, jsonschema.ValidationError):
        valid = False
    if valid:
        assert parse_pair(text) == tuple(found["score"])
    else:
        with pytest.raises(BadResponse):
            parse_pair(text)


@given(st.text(), st.integers(0, 25), st.integers(0, 25))
def test_whatever_fits_the_schema_is_read(reasoning, first, second):
    value = {"reasoning": reasoning, "score": [first, second]}
    jsonschema.validate(value, PAIR_SCHEMA)
    assert parse_pair(json.dumps(value)) == (first, second)


def test_the_schema_is_one_that_grammars_are_fast_with():
    text = json.dumps(PAIR_SCHEMA)
    assert list(PAIR_SCHEMA["properties"]) == ["reasoning", "score"]  # reasons first
    assert "maxLength" not in text and "pattern" not in text


def test_an_excerpt_shows_beginning_and_end():
    text = "a" * 500 + "z" * 500
    assert excerpt("a\n") == r"'a\n'"
    assert excerpt(text).startswith("'aaa") and "zzz'" in excerpt(text) and "1000 characters" in excerpt(text)
    assert len(excerpt(text)) < 200


# Expected digits


def brute(logits):
    """Edit-R1's own order of steps, in float64: softmax over the six, times 0..5, over 5."""
    p = np.exp(np.asarray(logits, dtype=np.float64) - np.max(logits))
    return float((p / p.sum() * np.arange(6)).sum() / 5)


@given(st.lists(st.floats(-30, 0), min_size=6, max_size=6))
def test_the_expectation_equals_a_softmax_by_hand(logits):
    normalised = np.asarray(logits) - np.log(np.exp(logits).sum())
    got = expected_digit(dict(zip(IDS, normalised.tolist(), strict=True)), IDS, 0.9)
    assert got == pytest.approx(brute(logits), abs=1e-12) and 0 <= got <= 1


@pytest.mark.parametrize("digit", range(6))
def test_a_certain_digit_is_its_value(digit):
    certain = {token: 0.0 if s == digit else -math.inf for s, token in enumerate(IDS)}
    assert expected_digit(certain, IDS, 1.0) == digit / 5
    # vLLM writes -9999 for minus infinity.
    assert expected_digit({t: max(p, -9999.0) for t, p in certain.items()}, IDS, 1.0) == digit / 5


def test_the_docstrings_example():
    shares = {IDS[4]: 0.6, IDS[5]: 0.3, 99: 0.1}
    assert expected_digit({t: math.log(p) for t, p in shares.items()}, IDS, 0.5) == pytest.approx(0.8666666666666667)


def test_ids_in_any_order_and_of_any_value():
    ids = (7, 900, 3, 12, 5, 1)
    shares = dict(zip(ids, (0.1, 0.1, 0.2, 0.3, 0.25, 0.05), strict=True))
    want = (0.1 + 0.4 + 0.9 + 1.0 + 0.25) / 5
    assert expected_digit({t: math.log(p) for t, p in shares.items()}, ids, 0.99) == pytest.approx(want)


def test_it_does_not_matter_whether_probabilities_are_over_all_tokens_or_the_digits():
    raw = {token: math.log(p) for token, p in zip(IDS, (0.02, 0.03, 0.05, 0.3, 0.2, 0.1), strict=True)}
    others = {100 + i: math.log(0.02) for i in range(14)}
    processed = {token: logprob - math.log(0.7) for token, logprob in raw.items()}
    assert expected_digit(raw | others, IDS, 0.5) == pytest.approx(expected_digit(processed, IDS, 0.5), abs=1e-12)


def test_too_little_mass_is_an_error_on_one_side_of_the_limit_only():
    def judged(mass):
        return expected_digit({t: math.log(mass / 6) for t in IDS} | {99: math.log(1 - mass)}, IDS, 0.5)

    assert judged(0.51) == pytest.approx(0.5)
    with pytest.raises(BadResponse, match=r"at least 0\.5 .*got 0\.49 .*say something else"):
        judged(0.49)


@pytest.mark.parametrize(
    "logprobs",
    [
        {},
        {15: math.nan},
        {15: 0.0, 99: math.nan},
        {15: math.inf},
        {15: 0.7},
        {15: -0.1, 16: -0.1},
        {99: -0.01},
        {15: -math.inf},
        {token: -9999.0 for token in IDS},
    ],
)
def test_no_or_impossible_probabilities_are_errors(logprobs):
    with pytest.raises(BadResponse, match=r"expected .*got"):
        expected_digit(logprobs, IDS, 0.1)


def test_rounding_above_zero_is_no_error():
    assert expected_digit({20: 1e-6, 19: -30.0}, IDS, 0.5) == pytest.approx(1.0)


def test_too_few_visible_digits_are_an_error():
    """Two digits of .3 each among 20 tokens: four more could hold up to .08 of what is left, R would be a guess."""
    reported = {15: 0.3, 20: 0.3} | {100 + i: 0.02 for i in range(18)}
    assert sum(reported.values()) == pytest.approx(0.96)
    with pytest.raises(BadResponse, match=r"got 2 .*among 20 tokens"):
        expected_digit({t: math.log(p) for t, p in reported.items()}, IDS, 0.5)


@settings(max_examples=200)
@given(st.lists(st.floats(0, 12), min_size=12, max_size=40), st.integers(1, 20), st.randoms(use_true_random=False))
@example([0.0] * 6 + [1.0] * 20, 3, None)
def test_what_hidden_digits_could_change_is_bounded(logits, reported, shuffle):
    """A server that reports its most likely tokens, and the response's own: an error, or close to the full sum."""
    assume(shuffle is not None or len(logits) == 26)
    logprobs = np.asarray(logits) - np.log(np.exp(logits).sum())
    order = list(range(len(logits)))
    if shuffle is not None:
        shuffle.shuffle(order)
    ids = tuple(order[:6])
    top = sorted(range(len(logits)), key=lambda token: -logprobs[token])[:reported]
    drawn = max(ids, key=lambda token: logprobs[token])  # at temperature 0, among the allowed tokens
    seen = {token: float(logprobs[token]) for token in {*top, drawn}}
    try:
        got = expected_digit(seen, ids, 0.05)
    except BadResponse:
        return
    assert got == pytest.approx(brute([logprobs[token] for token in ids]), abs=MAX_HIDDEN_SHIFT)


def test_digits_are_those_of_the_expectation():
    assert DIGITS == "012345" and len(IDS) == 6


@pytest.mark.parametrize(
    "text",
    [
        response(),
        f"  {response()}\n",
        f"```json\n{response()}\n```",
        f"```\n{response()}```",
        f"<think>let me look</think>\n{response()}",
        f"let me look\n</think>\n\n```json\n{response()}\n```",
        '<think>{"reasoning": "", "score": [1, 1]}</think>' + response(),
    ],
)
def test_what_servers_put_around_a_response_is_taken_off(text):
    assert parse_pair(unwrapped(text)) == parse_pair(response())


@pytest.mark.parametrize(
    "text",
    [
        f"Sure: {response()}",
        f"{response()} {response()}",
        f"```json\n{response()}\n```\n```json\n{response()}\n```",
        f"<think>{response()}",
        f"{response()}</think>",
        "```json\n```",
        "<think></think>",
    ],
)
def test_and_nothing_else_is(text):
    with pytest.raises(BadResponse):
        parse_pair(unwrapped(text))


def test_scores_in_quotes_are_named_as_such():
    with pytest.raises(BadResponse, match="a score is text, not a number"):
        parse_pair('{"reasoning": "ok", "score": ["8/10", "7/10"]}')
