"""The supervisor's view of a Ray cluster's jobs, through Ray's own client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from cluster.supervise.policy import Ended
from configs import exits

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
TIMEOUT = 60.0
"""Timeout of one request in seconds: Ray's client alone would wait forever for a hanging head."""


class Unreachable(Exception):
    """The cluster does not respond; it, or its replacement, may respond later. Retryable."""


class JobRefused(RuntimeError):
    """The cluster rejected the job or the credentials; the message says what to do."""


class Jobs(Protocol):
    """The supervisor's interface to a cluster. Every method may raise Unreachable or JobRefused."""

    def running(self) -> Mapping[str, bool]:
        """Every job by submission id, and whether it is still pending or running."""
        ...

    def submit(self, name: str, entrypoint: str) -> None:
        """Start a job under an unused submission id."""
        ...

    def look(self, name: str) -> Ended | str | None:
        """How the job ended, or its state; None if the cluster has no such job."""
        ...

    def log(self, name: str) -> str:
        """The job's complete output."""
        ...


class RayJobs:
    """See `Jobs`. The token is the one that Ray finds: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token."""

    def __init__(self, address: str | None, working_dir: str | None) -> None:
        """
        Args:
            address: the dashboard's; default RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine's.
            working_dir: a folder that jobs start in, copied to the cluster; without one they start where Ray did.

        Raises:
            JobRefused: the address is not that of a dashboard.
        """
        asked = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS
        if not asked.startswith(("http://", "https://")):
            raise JobRefused(f"--address: expected the dashboard's address, such as {DEFAULT_ADDRESS}, got {asked!r}")
        # This variable overrides the argument of Ray's client.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address = asked
        self._runtime_env = {} if working_dir is None else {"working_dir": working_dir}
        self._connected: Any = None

    def running(self) -> Mapping[str, bool]:
        jobs = self._ask(lambda client: client.list_jobs())
        return {job.submission_id: not job.status.is_terminal() for job in jobs if job.submission_id}

    def submit(self, name: str, entrypoint: str) -> None:
        # No CPU is requested, so that Ray puts the driver on the head, where nothing else of the run is.
        self._ask(
            lambda client: client.submit_job(entrypoint=entrypoint, submission_id=name, runtime_env=self._runtime_env)
        )

    def look(self, name: str) -> Ended | str | None:
        from ray.job_submission import JobStatus

        try:
            job = self._ask(lambda client: client.get_job_info(name))
        except JobRefused as error:
            if "does not exist" in str(error):
                return None
            raise
        if not job.status.is_terminal():
            return str(job.status.value)
        message = (job.message or "").partition(", last available logs")[0].strip()
        if job.status == JobStatus.SUCCEEDED:
            return Ended(exits.DONE, message)
        if job.status == JobStatus.STOPPED:
            return Ended(None, message, stopped=True)
        # A faulty working directory is not retryable; without an exit code, a node or a process of Ray was lost.
        code = exits.FAILED if job.error_type == "RUNTIME_ENV_SETUP_FAILURE" else job.driver_exit_code
        return Ended(code, message)

    def log(self, name: str) -> str:
        return str(self._ask(lambda client: client.get_job_logs(name)))

    def _ask(self, request: Callable[[Any], Any]) -> Any:
        with _translated(self.address):
            if self._connected is None:
                self._connected = _client(self.address)
            return request(self._connected)


def _client(address: str) -> Any:
    """Ray's client with a timeout for every request."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, timeout=TIMEOUT, **options)

    return Client(address)


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """Translate errors of Ray and its HTTP library into Unreachable and JobRefused."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise JobRefused(
            f"The cluster at {address} requires a different token. Copy ~/.ray/auth_token from "
            "its head (mode 0600), or set RAY_AUTH_TOKEN_PATH, and set RAY_AUTH_MODE=token."
        ) from error
    except (requests.exceptions.RequestException, ConnectionError) as error:
        raise Unreachable(f"{address} does not respond ({type(error).__name__})") from error
    except RuntimeError as error:  # Ray's client: a status other than 200
        if "status code 5" in str(error) and "already exists" not in str(error):
            raise Unreachable(f"{address} responds with a server error: {str(error).splitlines()[0]}") from error
        raise JobRefused(f"The cluster at {address} rejects the request: {error}") from error
