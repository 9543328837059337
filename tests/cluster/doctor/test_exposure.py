"""Who could get into a cluster: token, ports and dashboard, each with a real listener or file."""

import subprocess
import sys
from contextlib import contextmanager

import pytest

from cluster.doctor.exposure import (
    OpenPort,
    dashboard_finding,
    is_loopback,
    is_rays,
    listening,
    ports_finding,
    token_findings,
)
from tests.cluster.web import serving

LISTEN = (
    "import socket, sys; s = socket.create_server((sys.argv[1], 0)); print(s.getsockname()[1], flush=True); "
    "sys.stdin.read()"
)


@contextmanager
def listener(name: str, host: str):
    """A process called `name` that listens on a free port of `host`; the port."""
    process = subprocess.Popen(
        [name, "-c", LISTEN, host], executable=sys.executable, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield int(process.stdout.readline())
    finally:
        process.communicate("")


def test_only_rays_ports_beyond_loopback_are_found():
    with (
        listener("ray::Open", "0.0.0.0") as beyond,
        listener("ray::Closed", "127.0.0.1") as within,
        listener("somebody", "0.0.0.0") as other,
    ):
        found = [one.port for one in listening()]
    assert beyond in found and within not in found and other not in found
    assert beyond not in [one.port for one in listening()]


def test_open_ports_fail_without_the_token_only():
    ports = [OpenPort("127.0.0.1", 9, "gcs_server"), OpenPort("::1", 19, "python")]  # no server responds there
    without = ports_finding(False, ports)
    assert without.level == "fail" and "9 (gcs_server), 19 (python)" in without.seen
    assert "RAY_AUTH_MODE=token" in without.fix
    assert ports_finding(True, ports).level == "ok" and ports_finding(False, []).level == "ok"


@pytest.mark.parametrize(("status", "level"), [(401, "ok"), (404, "ok"), (200, "warn")])
def test_metrics_that_are_shown_without_the_token_are_named(status, level):
    with serving() as told:
        told.responses.update(
            {"/": (200, {}), "/metrics": (status, {})}
        )  # the dashboard's first page asks for no token
        open_port = OpenPort("0.0.0.0", int(told.address.rpartition(":")[2]), "DashboardAgent")
        found = ports_finding(True, [OpenPort("127.0.0.1", 9, "raylet"), open_port])
    assert told.seen and found.level == level and f"{open_port}" in found.seen
    assert ("RAY_enable_metrics_collection=0" in found.fix) == (level == "warn") == ("raylet" not in found.seen)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.3", False),
        ("::ffff:10.0.0.3", False),
        ("fe80::1%eth0", False),
    ],
)
def test_what_counts_as_loopback(address, loopback):
    assert is_loopback(address) == loopback


@pytest.mark.parametrize(
    ("name", "command", "rays"),
    [
        ("gcs_server", ["/x/gcs_server"], True),
        ("raylet", ["raylet"], True),
        ("python", ["ray::RolloutActor"], True),
        ("python", ["python", "/e/lib/site-packages/ray/dashboard/dashboard.py"], True),
        ("python", ["python", "-m", "ray.util.client.server"], True),
        ("python", ["python", "-m", "learner.main"], False),
        ("arrayd", ["arrayd"], False),
    ],
)
def test_what_counts_as_rays(name, command, rays):
    assert is_rays(name, command) == rays


@pytest.mark.parametrize(
    ("mode", "level", "words"),
    [(0o600, "ok", "only this user"), (0o644, "warn", "others can read"), (None, "fail", "No such file")],
)
def test_the_token_file(tmp_path, monkeypatch, mode, level, words):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    if mode is not None:
        (tmp_path / "token").write_text("canary")
        (tmp_path / "token").chmod(mode)
    (found,) = token_findings(True)
    assert found.level == level and words in found.seen and "canary" not in f"{found}"


def test_no_token_at_all_is_a_warning_with_the_fix(monkeypatch):
    (found,) = token_findings(False)
    assert found.level == "warn" and "ray get-auth-token --generate" in found.fix
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary")
    (found,) = token_findings(True)
    assert found.level == "ok" and "canary" not in f"{found}"


@pytest.mark.parametrize(
    ("status", "level", "words"),
    [
        (401, "ok", "rejects unauthenticated"),
        (200, "warn", "unauthenticated (status 200)"),
        (403, "warn", "unauthenticated (status 403)"),
    ],
)
def test_the_dashboard_is_asked_without_the_token(monkeypatch, status, level, words):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary")
    with serving() as told:
        told.responses["/api/version"] = (status, {})
        found = dashboard_finding(told.address.removeprefix("http://"))
    assert found.level == level and words in found.seen
    assert "canary" not in str(told.seen)
    gone = dashboard_finding("127.0.0.1:9")
    assert gone.level == "warn" and "does not respond" in gone.seen
