"""Jobs of a Ray cluster as a supervisor sees them, through Ray's own client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from cluster.supervise.policy import Ended
from configs import exits

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
TIMEOUT = 60.0
"""Seconds for one request: Ray's client itself would wait for ever for a head that hangs."""


class Unreachable(Exception):
    """The cluster does not answer now; it, or another in its place, may answer later."""


class JobRefused(RuntimeError):
    """The cluster answered and does not take the job, or does not let us in; the sentence says what to do."""


class Jobs(Protocol):
    """What a supervisor asks of a cluster. Every method may raise Unreachable or JobRefused."""

    def running(self) -> Mapping[str, bool]:
        """Every job by its submission id, and whether it still waits or runs."""
        ...

    def submit(self, name: str, entrypoint: str) -> None:
        """Starts a job under a submission id that is not taken."""
        ...

    def look(self, name: str) -> Ended | str | None:
        """How the job ended, or the state it is in; None when the cluster knows no such job."""
        ...

    def log(self, name: str) -> str:
        """Everything that the job has printed."""
        ...


class RayJobs:
    """See `Jobs`. The token is the one that Ray finds: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token."""

    def __init__(self, address: str | None, working_dir: str | None) -> None:
        """
        Args:
            address: of the dashboard; without one RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine's.
            working_dir: a folder that jobs start in, copied to the cluster; without one they start where Ray did.

        Raises:
            JobRefused: when the address is not one of a dashboard.
        """
        asked = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS
        if not asked.startswith(("http://", "https://")):
            raise JobRefused(f"--address: expected the dashboard's address, such as {DEFAULT_ADDRESS}, got {asked!r}")
        # Ray's client takes this before what it is given.
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address = asked
        self._runtime_env = {} if working_dir is None else {"working_dir": working_dir}
        self._connected: Any = None

    def running(self) -> Mapping[str, bool]:
        jobs = self._ask(lambda client: client.list_jobs())
        return {job.submission_id: not job.status.is_terminal() for job in jobs if job.submission_id}

    def submit(self, name: str, entrypoint: str) -> None:
        # No CPU is asked for, so that Ray puts the driver on the head, which holds nothing else of the run.
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
        # A faulty working directory stays one; all else without an exit code is a node, or a process of Ray's, lost.
        code = exits.FAILED if job.error_type == "RUNTIME_ENV_SETUP_FAILURE" else job.driver_exit_code
        return Ended(code, message)

    def log(self, name: str) -> str:
        return str(self._ask(lambda client: client.get_job_logs(name)))

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        with _translated(self.address):
            if self._connected is None:
                self._connected = _client(self.address)
            return question(self._connected)


def _client(address: str) -> Any:
    """Ray's client with a deadline for every request."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, timeout=TIMEOUT, **options)

    return Client(address)


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """Ray's and its HTTP library's errors as ours."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise JobRefused(
            f"The cluster at {address} asks for another token than we have. Copy ~/.ray/auth_token from "
            "its head (mode 0600), or set RAY_AUTH_TOKEN_PATH, and set RAY_AUTH_MODE=token."
        ) from error
    except (requests.exceptions.RequestException, ConnectionError) as error:
        raise Unreachable(f"{address} does not answer ({type(error).__name__})") from error
    except RuntimeError as error:  # Ray's client: an answer other than 200
        if "status code 5" in str(error) and "already exists" not in str(error):
            raise Unreachable(f"{address} answers with an error of its own: {str(error).splitlines()[0]}") from error
        raise JobRefused(f"The cluster at {address} refuses: {error}") from error
