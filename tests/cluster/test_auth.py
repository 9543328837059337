"""Where a local Ray has its token."""

from pathlib import Path

import pytest

from cluster.auth import check_token_file
from configs.errors import ConfigError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "value"), [("HOME", "{tmp}/file"), ("HOME", "/proc/nowhere"), ("RAY_AUTH_TOKEN_PATH", "{tmp}/nothing")]
)
def test_without_a_place_for_it_a_run_is_refused_with_ways_out(tmp_path: Path, monkeypatch, name, value):
    (tmp_path / "file").touch()
    monkeypatch.setenv(name, value.format(tmp=tmp_path))
    with pytest.raises(ConfigError, match=r"needs a place for its access token, but: .*--cluster.mode inline$"):
        check_token_file()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a token")
    check_token_file()


def test_a_user_without_a_home_is_told_too(monkeypatch):
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(ConfigError, match=r"but: Could not determine home directory\."):
        check_token_file()


def test_a_token_that_is_there_or_can_be_made_will_do(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    check_token_file()
    assert list((tmp_path / ".ray").iterdir()) == []
    (tmp_path / ".ray" / "auth_token").write_text("a token")
    check_token_file()
