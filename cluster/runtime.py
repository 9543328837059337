"""Connects to Ray, or starts a small local one; whoever starts it ends it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import ray
from ray._private import ray_constants
from ray.exceptions import RayError

from cluster.auth import check_token_file
from cluster.placement import OBJECT_STORE_BYTES
from cluster.session_folder import private_folder, remove
from configs.exits import STOP_SIGNALS
from configs.schema import ClusterConfig

LISTEN_SECONDS = 10.0

START_ATTEMPTS = 2
"""Ray gives its processes half a minute to come up, which is not always enough on a busy machine."""


class ClusterError(RuntimeError):
    """Ray cannot be reached or started; the sentence says what to do."""


class Runtime:
    """A connection to Ray; `close` ends the connection, and Ray itself if this started it.

    As a context it also removes the folder of a Ray that this started, unless it is left by an error: then people look
    into Ray's logs.
    """

    def __init__(self, ours: bool, folder: Path | None = None) -> None:
        self._ours, self._folder = ours, folder

    def close(self) -> None:
        """Leaves alone a Ray that was running, or connected to, before."""
        if self._ours and ray.is_initialized():
            ray.shutdown()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None and self._folder is not None:
            remove(self._folder)


def connect(config: ClusterConfig) -> Runtime:
    """Makes Ray usable in this process.

    An existing connection of this process is used as it is. Otherwise `cluster.address` is joined, or without
    one the cluster whose job this is (Ray tells its jobs by RAY_ADDRESS). Otherwise a local Ray is started: on
    loopback, no dashboard, authentication by token, quiet, in a folder that only this user can enter.

    Raises:
        ClusterError: when no cluster answers at the address.
        ConfigError: when a local Ray would have no place for its token.
    """
    if ray.is_initialized():
        return Runtime(ours=False)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a run reports nothing to anyone
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "1")  # what a killed actor started goes with it
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of a change of its defaults
    address = config.address or os.environ.get("RAY_ADDRESS")
    with _own_sigterm_handler():
        if address:
            _join(address)
            return Runtime(ours=True)
        with _on_loopback(), _stop_signals_blocked():
            return Runtime(ours=True, folder=_start_local(config.rollout_workers + 2))


@contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Ray puts its own handler in place, which would end the program before it has wound up."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """What is started meanwhile inherits this and does not end by requests to stop, which batch systems send to every
    process of a run: it ends when the driver has saved and tells it to, or disappears. Ray itself does so for Ctrl-C.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _join(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit() and "/" not in host:
            # Ray itself tries for five minutes where nobody listens.
            socket.create_connection((host.strip("[]"), int(port)), timeout=LISTEN_SECONDS).close()
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise ClusterError(
            f"cluster.address: expected a running Ray cluster at {address!r}, but: {error}. Start one (see "
            "cluster/README.md), or leave cluster.address and RAY_ADDRESS unset for a local one"
        ) from error


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray that starts meanwhile listens on loopback only, as Ray does on macOS and Windows.

    Elsewhere it listens for everybody, and tells its metrics to them without the token. This variable decides, but Ray
    has read it when it was imported, and a driver that joins a cluster must not have it set.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _start_local(processes: int) -> Path:
    """Starts it and returns its folder."""
    check_token_file()
    # Ray would make its workers give way to everything else on the machine, as if training were not what it is for.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # With RAY_AUTH_MODE unset, Ray turns authentication on and makes a token where there is none. Setting it here
    # would come too late for a Ray module that is imported already.
    try:
        folder = private_folder()
    except OSError as error:
        raise ClusterError(
            f"Ray needs a folder for its sockets, which cannot be made: {error}. Set TMPDIR to a folder "
            "that you can write to, or do without Ray: --cluster.mode inline"
        ) from error
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                _temp_dir=str(folder),
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                # Ray starts this many processes ahead; the actors themselves ask for no CPUs.
                num_cpus=min(processes, os.cpu_count() or 1),
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            break
        except Exception as error:  # Ray raises bare Exceptions when a process does not come up in time
            ray.shutdown()  # ends what came up of this attempt
            if attempt == START_ATTEMPTS:
                raise ClusterError(
                    f"Ray did not start on this machine, {attempt} times: {error} Its logs are in "
                    f"{folder}/session_latest/logs. On a very busy machine try again, or do without Ray: "
                    "--cluster.mode inline"
                ) from error
    try:
        _check_authentication()
    except ClusterError:
        ray.shutdown()
        raise
    return folder


def _check_authentication() -> None:
    """Raises ClusterError when the Ray that was just started answers to everybody, unless that was asked for."""
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    if mode not in ("token", "disabled"):
        raise ClusterError(
            f"Expected the local Ray to ask for a token, but RAY_AUTH_MODE is {mode} (Ray {ray.__version__}). Set "
            "RAY_AUTH_MODE=token and run `ray get-auth-token --generate` once."
        )
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():
        token.chmod(0o600)  # Ray writes it readable for all


def actor_options(
    config: ClusterConfig, gpus: float, resources: Mapping[str, float] | None = None
) -> dict[str, object]:
    """Ray options of an actor: it never restarts or repeats by itself (the run does that, and counts it).

    CPUs are not reserved: on a small machine the actors share the cores that there are, and scheduling must
    not wait for more.

    Args:
        config: of the run's cluster.
        gpus: that are reserved.
        resources: custom ones, see `cluster.placement.custom`.
    """
    threads = str(config.threads_per_process)
    return {
        "num_cpus": 0,
        "num_gpus": gpus,
        "resources": dict(resources or {}),
        "max_restarts": 0,
        "max_task_retries": 0,
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
    }
