"""Tests of configs.rewards."""

import pytest
from pydantic import ValidationError

from configs.errors import ConfigError
from configs.load import load_config
from configs.rewards import RedisConfig

CANARY = "canary-5b1f9a"


@pytest.mark.parametrize("url", [
    "redis://cache.example:6379/2", "redis://cache.example", "rediss://reader@cache.example:6380/0",
    "unix:///run/valkey/socket?db=1", "redis://[::1]:6379/0",
])
def test_addresses_of_a_shared_cache(url):
    assert RedisConfig(mode="url", url=url).url == url


@pytest.mark.parametrize(("url", "expected"), [
    ("cache.example:6379", "expected redis://host:port/db"),
    ("http://cache.example", "expected redis://host:port/db"),
    ("redis://cache.example:port", "expected redis://host:port/db"),
    ("redis://cache.example:99999", "expected redis://host:port/db"),
    ("redis://cache.example/0?socket_timeout=9", "no options but db"),
    ("", "expected an address exactly when"),
])
def test_what_is_no_address_of_a_shared_cache(url, expected):
    with pytest.raises(ValidationError, match=expected):
        RedisConfig(mode="url", url=url)


def test_an_address_that_would_not_be_used_is_refused():
    with pytest.raises(ValidationError, match=r"exactly when redis\.mode is url, got mode embedded"):
        RedisConfig(url="redis://cache.example")


@pytest.mark.parametrize("url", [
    f"redis://:{CANARY}@cache.example/0", f"redis://me:{CANARY}@cache.example:port",
    f"redis://cache.example/0?password={CANARY}", f"http://me:{CANARY}@cache.example?password={CANARY}",
])
def test_a_password_in_the_address_is_refused_without_being_shown(url):
    with pytest.raises(ValueError, match="LOCUS_REDIS_PASSWORD") as caught:
        load_config(["--redis.mode", "url", "--redis.url", url])
    assert CANARY not in str(caught.value)


def test_a_shared_cache_must_tell_the_weights_behind_an_address_apart():
    shared = ["--redis.mode", "url", "--redis.url", "redis://cache.example",
              "--rewards.judge.qwen_vl.urls", '["http://127.0.0.1:8000/v1"]']
    with pytest.raises(ConfigError, match=r"rewards.judge.qwen_vl.revision: expected what tells this model's weights"):
        load_config(shared)
    assert load_config([*shared, "--rewards.judge.qwen_vl.revision", "2026-11"]).redis.mode == "url"
