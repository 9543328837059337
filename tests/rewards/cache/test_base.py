"""Tests of rewards.cache."""

import asyncio
import hashlib
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.rewards import RedisConfig
from rewards.cache.base import CacheError, CacheStatistics, NoCache, cache_key, decode, encode
from rewards.cache.open import open_cache

NAMES = st.text("abc_", min_size=1, max_size=4)
PARTS = st.one_of(
    st.text(max_size=5),
    st.binary(max_size=5),
    st.integers(-3, 3),
    st.booleans(),
    st.none(),
    st.sampled_from([0.0, 0.7, 1.0, -1.5]),
)
NAMED = st.dictionaries(NAMES, PARTS, max_size=4)
KEY = cache_key(model="judge", seed=0)


def exactly(parts: dict) -> list:
    """The parts with their types, since in Python 1 == 1.0 == True."""
    return sorted((name, type(part).__name__, repr(part)) for name, part in parts.items())


@given(NAMED, st.randoms())
def test_the_order_of_the_parts_does_not_matter(parts, random):
    shuffled = list(parts.items())
    random.shuffle(shuffled)
    assert cache_key(**dict(shuffled)) == cache_key(**parts)


@given(NAMED, NAMED)
def test_keys_are_equal_exactly_when_the_parts_are(one, other):
    assert (cache_key(**one) == cache_key(**other)) == (exactly(one) == exactly(other))


@given(NAMED.filter(bool), st.data())
def test_every_part_counts(parts, data):
    name = data.draw(st.sampled_from(sorted(parts)))
    changed = {**parts, name: data.draw(PARTS.filter(lambda part: exactly({"": part}) != exactly({"": parts[name]})))}
    without = {key: part for key, part in parts.items() if key != name}
    assert len({cache_key(**parts), cache_key(**changed), cache_key(**without)}) == 3


@given(st.binary(), st.binary())
def test_nothing_is_joined_bytes_stay_apart_from_text_and_from_their_digest(one, other):
    keys = {cache_key(a=one, b=other), cache_key(a=one + other, b=b""), cache_key(a=b"", b=one + other)}
    assert len(keys) == len({(one, other), (one + other, b""), (b"", one + other)})
    same = {cache_key(a=one), cache_key(a=one.decode("latin-1")), cache_key(a=hashlib.sha256(one).hexdigest())}
    assert len(same) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": "x", "b": "y"}, {"a": 'x", "b": "y'}),
        ({"a": "1"}, {"a": 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {"a": "None"}),
        ({"a": None}, {}),
        ({"a": "x"}, {"b": "x"}),
        ({"a": "é"}, {"a": "e\u0301"}),
        ({"a": "\ud800"}, {"a": "\\ud800"}),
    ],
)
def test_parts_that_could_be_confused(one, other):
    assert cache_key(**one) != cache_key(**other)


def test_a_key_stays_the_same_between_versions():
    # A change here makes every stored score unreachable: raise SCHEMA with it, and know why.
    assert cache_key(instruction="make it red", seed=0, temperature=0.7, image=b"\x00\x01") == (
        "1ed70a6d896086639d9d4850c1080170a69c010b4c9d69ec72f09566bb6465b7"
    )


@pytest.mark.parametrize("part", [[1], (1,), {"a": 1}, object()])
def test_a_part_without_one_text_is_refused(part):
    with pytest.raises(TypeError, match="seed must be text"):
        cache_key(seed=part)


@pytest.mark.parametrize("part", [math.nan, math.inf])
def test_a_part_that_is_not_finite_is_refused(part):
    with pytest.raises(ValueError):
        cache_key(temperature=part)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_score_comes_back_bit_for_bit(value):
    back = decode(KEY, encode(KEY, value))
    assert back == value and math.copysign(1, back) == math.copysign(1, value)


def test_a_score_of_another_key_or_version_is_none():
    other = cache_key(model="judge", seed=1)
    assert decode(KEY, encode(other, 0.5)) is None
    assert decode(KEY, b"2" + encode(KEY, 0.5)[1:]) is None
    assert decode(KEY, encode(KEY, 0.5)) == 0.5


@given(st.one_of(st.none(), st.binary(max_size=8), st.integers(), st.text(max_size=4)))
def test_whatever_else_is_stored_is_no_score(stored):
    assert decode(KEY, stored) is None


@given(st.binary(max_size=8))
def test_only_what_encode_writes_is_read(tail):
    value = decode(KEY, f"1:{KEY}:".encode() + tail)
    assert value is None or encode(KEY, value) == f"1:{KEY}:".encode() + tail


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-inf", "", " 0.5", "0.5 ", "1_0.5", "0x1p0", "1", "0.50", "1e999", "0,5"]
)
def test_numbers_that_python_would_read_but_encode_never_writes(text):
    assert decode(KEY, f"1:{KEY}:{text}".encode()) is None


def test_no_cache_knows_nothing_and_refuses_what_is_not_finite():
    async def use() -> CacheStatistics:
        cache = open_cache(RedisConfig(mode="off"), None)
        assert isinstance(cache, NoCache)
        await cache.put({KEY: 0.5})
        assert await cache.get([KEY, KEY]) == [None, None]
        with pytest.raises(ValueError, match="must be finite"):
            await cache.put({KEY: math.nan})
        await cache.close()
        return cache.statistics()

    assert asyncio.run(use()) == CacheStatistics(misses=2)


def test_a_missing_redis_package_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "rewards.cache.redis_cache", None)
    with pytest.raises(CacheError, match=r"package redis, which is not installed.*\[judges\].*--redis.mode off"):
        open_cache(RedisConfig(), None)
