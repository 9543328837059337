"""Tests of configs.rewards and configs.addresses."""

import re

import pytest
from pydantic import ValidationError

from configs.addresses import judge_address
from configs.components import BUILT_IN, COMPONENT_KINDS, COMPONENT_RANGES, EMBEDDINGS
from configs.errors import ConfigError
from configs.judges import JUDGED
from configs.load import load_config
from configs.rewards import RedisConfig
from learner.main import main

CANARY = "canary-5b1f9a"
JUDGE = "--rewards.judge.editscore"


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache.example:6379/2",
        "redis://cache.example",
        "rediss://reader@cache.example:6380/0",
        "unix:///run/valkey/socket?db=1",
        "redis://[::1]:6379/0",
    ],
)
def test_addresses_of_a_shared_cache(url):
    assert RedisConfig(mode="url", url=url).url == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("cache.example:6379", "expected redis://host:port/db"),
        ("http://cache.example", "expected redis://host:port/db"),
        ("redis://cache.example:port", "expected redis://host:port/db"),
        ("redis://cache.example:99999", "expected redis://host:port/db"),
        ("redis://cache.example/0?socket_timeout=9", "no option other than db"),
        ("", "expected an address exactly when"),
    ],
)
def test_what_is_no_address_of_a_shared_cache(url, expected):
    with pytest.raises(ValidationError, match=expected):
        RedisConfig(mode="url", url=url)


def test_an_address_that_would_not_be_used_is_refused():
    with pytest.raises(ValidationError, match=r"exactly when redis\.mode is url, got mode embedded"):
        RedisConfig(url="redis://cache.example")


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{CANARY}@cache.example/0",
        f"redis://me:{CANARY}@cache.example:port",
        f"redis://cache.example/0?password={CANARY}",
        f"http://me:{CANARY}@cache.example?password={CANARY}",
        f"redis://me:{CANARY}@[::1",
    ],
)
def test_a_password_in_the_address_is_refused_without_being_shown(url):
    with pytest.raises(ConfigError, match=r"LOCUS_REDIS_PASSWORD|expected redis://host") as caught:
        load_config(["--redis.mode", "url", "--redis.url", url])
    assert CANARY not in str(caught.value)


def test_a_shared_cache_must_tell_the_weights_behind_an_address_apart():
    shared = [
        "--redis.mode",
        "url",
        "--redis.url",
        "redis://cache.example",
        "--rewards.judge.qwen_vl.urls",
        '["http://127.0.0.1:8000/v1"]',
    ]
    with pytest.raises(
        ConfigError, match=r"rewards.judge.qwen_vl.revision: expected an identifier of this model's weights"
    ):
        load_config(shared)
    assert load_config([*shared, "--rewards.judge.qwen_vl.revision", "2026-11"]).redis.mode == "url"
    # A folder's name says as little of what is in it as an address does.
    served = [*shared[:4], f"{JUDGE}.serve.replicas", "1", f"{JUDGE}.serve.path", "/weights"]
    with pytest.raises(ConfigError, match=r"rewards.judge.editscore.revision: expected an identifier"):
        load_config(served)
    assert load_config([*served, f"{JUDGE}.revision", "2026-11"]).redis.mode == "url"


def test_addresses_of_judges():
    assert judge_address("http://127.0.0.1:8000/v1/") == "http://127.0.0.1:8000/v1"
    for url in ("https://judge.example/models/@mine/v1", "http://[::1]:8000/v1"):
        assert judge_address(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "127.0.0.1:8000/v1",
        "ftp://judge.example/v1",
        "http://",
        "http://judge.example:port/v1",
        "http://judge.example:99999/v1",
        "http://judge example/v1",
        "http://[::1",
        "",
    ],
)
def test_what_is_no_address_of_a_judge_stops_before_there_is_a_run_folder(url, tmp_path, capsys):
    flags = ["--folder", str(tmp_path), f"{JUDGE}.urls", f'["http://127.0.0.1:8000/v1", "{url}"]']
    for more in ([], ["--dry-run"]):
        assert main([*flags, *more]) == 2
        said = capsys.readouterr()
        assert "rewards.judge.editscore.urls: expected the address of a judge, such as http://" in said.err
        assert f"{JUDGE}.urls" in said.err and repr(url) in said.err and not said.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{CANARY}@judge.example/v1",
        f"http://{CANARY}@judge.example/v1",
        f"http://me:{CANARY}@[::1",
        f"http://me:{CANARY}@judge.example:port",
        f"http://judge.example/v1?key={CANARY}",
        f"http://judge.example/v1#{CANARY}",
        f"nonsense:{CANARY}@judge.example",
    ],
)
def test_a_secret_in_the_address_of_a_judge_is_refused_without_being_shown(url, tmp_path, capsys):
    for more in ([], ["--dry-run"]):
        assert main(["--folder", str(tmp_path), f"{JUDGE}.urls", f'["{url}"]', *more]) == 2
        said = capsys.readouterr()
        assert "rewards.judge.editscore.urls: expected no user, password" in said.err
        assert "LOCUS_JUDGE_API_KEY" in said.err and CANARY not in said.out + said.err
    assert not list(tmp_path.iterdir())


def test_servers_of_the_runs_own_need_weights_and_whole_gpus():
    one = [f"{JUDGE}.serve.replicas", "1"]
    with pytest.raises(ConfigError, match=r"editscore\.serve\.replicas: expected 0 while serve\.path is empty, got 1"):
        load_config(one)
    served = [*one, f"{JUDGE}.serve.path", "/weights", f"{JUDGE}.serve.gpus"]
    for gpus in ("0", "0.5", "1", "4"):
        assert load_config([*served, gpus]).rewards.judge.editscore.serve.gpus == float(gpus)
    with pytest.raises(ConfigError, match=r"serve\.gpus: expected a share of one GPU or a whole number .* got 1\.5"):
        load_config([*served, "1.5"])


@pytest.mark.parametrize(
    "dotted", ["my_package.scorers", "", ":f", "m:", ".m:f", "a..b:f", "m:f:g", "m:f()", "/etc/passwd:f"]
)
def test_a_scorer_is_named_by_module_and_function(dotted):
    with pytest.raises(ConfigError, match=r"rewards\.scorers\.mine: expected package\.module:function, got"):
        load_config(["--rewards.scorers", f"{{mine: '{dotted}'}}"])


@pytest.mark.parametrize("weight", ["1e308", "-1e308", "1.1e6"])
def test_weights_so_large_that_rewards_would_be_no_numbers_are_refused(weight):
    with pytest.raises(ConfigError, match=r"rewards\.weights\.edit_psnr: expected a number from -1e\+06 to 1e"):
        load_config(["--rewards.weights.edit_psnr", weight])
    assert load_config(["--rewards.weights.edit_psnr", "1e6"]).rewards.weights["edit_psnr"] == 1e6


def test_every_component_says_what_it_rewards_and_in_which_range_it_lies():
    everything = {*BUILT_IN, *JUDGED, *EMBEDDINGS}
    assert set(COMPONENT_KINDS) == everything
    assert set(COMPONENT_RANGES) == everything
    assert all(of.width > 0 and of.unit for of in COMPONENT_RANGES.values())


def test_judges_lie_in_a_range_that_a_share_can_be_taken_of():
    assert all(COMPONENT_RANGES[name][:2] == (0.0, 1.0) for name in JUDGED)


def test_a_scorer_that_has_no_weight_is_not_silently_left_out():
    mine = ["--rewards.scorers.mine", "my_scorers:mine"]
    with pytest.raises(ConfigError, match=r"^rewards\.scorers\.mine: expected a weight for it") as told:
        load_config(mine)
    for weight in [*re.findall(r"--rewards\.weights\.mine (\d)", str(told.value)), "0"]:
        assert load_config([*mine, "--rewards.weights.mine", weight]).rewards.weights["mine"] == float(weight)
