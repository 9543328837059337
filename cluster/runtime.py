"""Connection to Ray, or a small local Ray; whoever starts it shuts it down."""

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
"""Ray gives its processes 30 seconds to come up, which is not always enough on a busy machine."""


class ClusterError(RuntimeError):
    """Ray cannot be reached or started; the message says what to do."""


class Runtime:
    """A connection to Ray; `close` ends the connection, and Ray itself if this started it.

    As a context manager it also removes the folder of a Ray that it started, except after an error, when Ray's logs are
    needed.
    """

    def __init__(self, ours: bool, folder: Path | None = None) -> None:
        self._ours, self._folder = ours, folder

    def close(self) -> None:
        """Disconnect; a Ray that was running or connected before is left alone."""
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
    """Connect this process to Ray.

    An existing connection of this process is reused. Otherwise it joins `cluster.address`, or without one the enclosing
    Ray job's cluster (RAY_ADDRESS, set by Ray). Otherwise it starts a local Ray: on loopback, without dashboard,
    authenticated by token, quiet, in a folder that only this user can enter.

    Raises:
        ClusterError: no cluster responds at the address.
        ConfigError: a local Ray would have no place for its token.
    """
    if ray.is_initialized():
        return Runtime(ours=False)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "1")  # kill an actor's child processes with it
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise Ray warns about a changing default
    address = config.address or os.environ.get("RAY_ADDRESS")
    with _own_sigterm_handler():
        if address:
            _join(address)
            return Runtime(ours=True)
        with _on_loopback(), _stop_signals_blocked():
            return Runtime(ours=True, folder=_start_local(config.rollout_workers + 2))


@contextmanager
def _own_sigterm_handler() -> Iterator[None]:
    """Undo Ray's own SIGTERM handler, which would exit before an orderly shutdown."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _stop_signals_blocked() -> Iterator[None]:
    """Block stop signals in processes started meanwhile, since batch systems signal every process of a run.

    They end once the driver has saved and stops them, or disappears. Ray itself does the same for Ctrl-C.
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
            # Ray itself retries for five minutes if nothing listens.
            socket.create_connection((host.strip("[]"), int(port)), timeout=LISTEN_SECONDS).close()
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise ClusterError(
            f"cluster.address: expected a running Ray cluster at {address!r}, but: {error}. Start one (see "
            "cluster/README.md), or leave cluster.address and RAY_ADDRESS unset for a local one"
        ) from error


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Make a Ray that starts meanwhile listen on loopback only, as Ray does on macOS and Windows.

    Otherwise it listens on all interfaces, with unauthenticated metrics. The environment variable does not help: Ray
    reads it on import, and a driver that joins a cluster must not have it set.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _start_local(processes: int) -> Path:
    """Start a local Ray and return its folder."""
    check_token_file()
    # By default Ray lowers the priority of its workers, but here training is the main workload.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # With RAY_AUTH_MODE unset, Ray enables authentication and creates a missing token. Setting it here would be too
    # late for a Ray module that is already imported.
    try:
        folder = private_folder()
    except OSError as error:
        raise ClusterError(
            f"Ray needs a folder for its sockets, which cannot be created: {error}. Set TMPDIR to a "
            "writable folder, or run without Ray: --cluster.mode inline"
        ) from error
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                _temp_dir=str(folder),
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                # Ray prestarts this many processes; the actors themselves reserve no CPUs.
                num_cpus=min(processes, os.cpu_count() or 1),
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            break
        except Exception as error:  # Ray raises bare Exceptions when a process does not come up in time
            ray.shutdown()  # ends the processes of this attempt
            if attempt == START_ATTEMPTS:
                raise ClusterError(
                    f"Ray did not start on this machine in {attempt} attempts: {error} Its logs are in "
                    f"{folder}/session_latest/logs. On a very busy machine try again, or run without Ray: "
                    "--cluster.mode inline"
                ) from error
    try:
        _check_authentication()
    except ClusterError:
        ray.shutdown()
        raise
    return folder


def _check_authentication() -> None:
    """Raise ClusterError if the local Ray is unauthenticated, unless that was requested."""
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    if mode not in ("token", "disabled"):
        raise ClusterError(
            f"Expected the local Ray to require a token, but RAY_AUTH_MODE is {mode} (Ray {ray.__version__}). Set "
            "RAY_AUTH_MODE=token and run `ray get-auth-token --generate` once."
        )
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():
        token.chmod(0o600)  # Ray creates it world-readable


def actor_options(
    config: ClusterConfig, gpus: float, resources: Mapping[str, float] | None = None
) -> dict[str, object]:
    """Ray options of an actor: no restarts and no retries by Ray (the run does both, and counts them).

    CPUs are not reserved: on a small machine the actors share the existing cores, and scheduling must not wait for
    more.

    Args:
        config: the run's cluster section.
        gpus: GPUs to reserve.
        resources: custom resources, see `cluster.placement.custom`.
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
