"""Settings that every test shares."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

# One thread per process: the arrays in the tests are small, and machines that run them are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing in the tests may reach for a model hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import structlog
from hypothesis import HealthCheck, settings

from configs.exits import STOP_SIGNALS

# What a user has exported for runs and terminals must not affect the tests. PYTHONUNBUFFERED would hide that a command
# does not flush what it prints.
for name in ("RAY_ADDRESS", "PYTHONUNBUFFERED", "TERM", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(name, None)

# Deadlines, and complaints about slow examples, would make property tests depend on how busy the machine is.
settings.register_profile("locus", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("locus")


@pytest.fixture(autouse=True)
def a_terminal_of_usual_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the one is in which the tests run; tests of narrow ones set their own."""
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(autouse=True)
def structlog_as_before() -> Iterator[None]:
    """Commands that run in the tests' process filter what is logged: not for the tests after them."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Commands that run in the tests' process take over signals: not for the tests after them."""
    before = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGALRM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_kontext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Kontext pipeline (VAE factor 4, 4 latent channels, two blocks of each type)."""
    # Imported here: diffusers takes seconds, and most tests do without.
    from tests.tiny_kontext import make_tiny_kontext

    return make_tiny_kontext(tmp_path_factory.mktemp("tiny_kontext"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray for all tests of this process that need it: starting one takes ten seconds and more."""
    from cluster.runtime import connect
    from configs.schema import ClusterConfig

    with connect(ClusterConfig()):
        yield
