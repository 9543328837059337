"""Tests of rewards.service.body: whatever the bytes, a request or a refusal in one bounded sentence."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.service.body import EXAMPLE, MAX_ITEMS, RleMask, ScoreRequest, parse
from rewards.service.refusal import Refusal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*EXAMPLE, "rle", "png", "polarity", "size", "counts", "x"]), inner, max_size=6
        )
    ),
    max_leaves=20,
)


def read(body: bytes) -> ScoreRequest | Refusal:
    try:
        return parse(body)
    except Refusal as refusal:
        assert refusal.status in (400, 413, 422)
        assert refusal.sentence.endswith(".") and "\n" not in refusal.sentence and len(refusal.sentence) < 300
        return refusal


def test_the_example_is_a_request():
    request = read(json.dumps(EXAMPLE).encode())
    assert isinstance(request, ScoreRequest) and isinstance(request.mask, RleMask)
    assert request.mask.rle.counts == [16, 16, 32] and request.target is None


@given(st.binary(max_size=200))
def test_any_bytes(body):
    assert isinstance(read(body), Refusal)


@given(JSON)
def test_any_json(value):
    assert isinstance(read(json.dumps(value).encode()), Refusal)


@given(st.sampled_from(sorted(EXAMPLE)), JSON)
def test_any_value_in_a_field(name, value):
    got = read(json.dumps({**EXAMPLE, name: value}).encode())
    if isinstance(got, Refusal) and got.status == 422:
        assert got.sentence.startswith(name)


@given(st.text(max_size=300))
def test_any_name_of_a_field(name):
    if name in ScoreRequest.model_fields:
        return
    got = read(json.dumps({**EXAMPLE, name: 1}).encode())
    assert isinstance(got, Refusal) and got.status in (400, 422)


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"0,", b'{"a":', b"[["])
def test_many_small_values_are_refused_before_they_are_built(piece, monkeypatch):
    monkeypatch.setattr(ScoreRequest, "model_validate_json", lambda body: pytest.fail("it was parsed"))
    got = read(b'{"edited": [' + piece * (MAX_ITEMS + 1))
    assert isinstance(got, Refusal) and got.status == 413
