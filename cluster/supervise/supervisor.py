"""The supervisor's loop: submit a run and watch it until it is done or needs an operator."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from cluster.supervise.jobs import Jobs, Unreachable
from cluster.supervise.policy import Again, Ended, Stop, decide
from configs import exits
from locus.common.restarts import RestartPolicy

LOG_LINES = 25
LOOK_EVERY = 2.0  # seconds

T = TypeVar("T")


@dataclass(frozen=True)
class Clock:
    """An injectable clock, so that tests need not wait."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Supervisor:
    """One run, and the jobs `<run>-1`, `<run>-2`, ... that are its attempts."""

    def __init__(
        self,
        jobs: Jobs,
        run: str,
        entrypoint: str,
        policy: RestartPolicy,
        patience: float,
        say: Callable[[str], None],
        clock: Clock | None = None,
    ) -> None:
        """
        Args:
            entrypoint: the command of every attempt; it checks by itself whether there is something to resume.
            patience: seconds that the cluster may be unreachable.
            say: receives progress messages.
        """
        self._jobs, self._run, self._entrypoint, self._policy = jobs, run, entrypoint, policy
        self._patience, self._say, self._clock = patience, say, clock or Clock()

    def until_it_ends(self) -> int:
        """Watch the run to its end and return the supervisor's exit code.

        Raises:
            JobRefused: see `cluster.supervise.jobs`.
        """
        try:
            return self._until_it_ends()
        except Unreachable:
            self._say(
                f"No cluster for {self._patience:g} s. Start one, then the supervisor again: the run resumes "
                "from its last checkpoint."
            )
            return exits.RESUMABLE

    def _until_it_ends(self) -> int:
        failures = 0
        while True:
            name = self._attempt()
            started = self._clock.now()
            ended = self._end_of(name)
            self._show_log(name)
            self._say(f"{name} ended: {ended.reason or f'exit code {ended.exit_code}'}")
            match decide(self._policy, failures, ended, self._clock.now() - started):
                case Stop(code, why):
                    self._say(why)
                    return code
                case Again(delay, failures):
                    self._say(
                        f"Another attempt in {delay:g} s ({failures} of at most {self._policy.restarts} failures "
                        "in a row)."
                    )
                    self._clock.sleep(delay)

    def _attempt(self) -> str:
        """The submission id of the running attempt, or of a new one."""

        def submit() -> str:
            jobs = self._jobs.running()
            if (current := _latest(self._run, {name: 1 for name, runs in jobs.items() if runs})) is not None:
                self._say(f"{current} is already running; waiting for it.")
                return current
            name = next_name(self._run, jobs)
            self._jobs.submit(name, self._entrypoint)
            self._say(f"{name} submitted: {self._entrypoint}   (follow it with: ray job logs -f {name})")
            return name

        return self._patiently(submit)

    def _end_of(self, name: str) -> Ended:
        state = ""
        while True:
            found = self._patiently(lambda: self._jobs.look(name))
            if found is None:
                return Ended(None, "the current cluster does not know it, so its own cluster was lost")
            if isinstance(found, Ended):
                return found
            if found != state:
                state = found
                self._say(f"{name} is {state.lower()}.")
            self._clock.sleep(LOOK_EVERY)

    def _patiently(self, ask: Callable[[], T]) -> T:
        """The result of a request, retried while the cluster is unreachable."""
        since = self._clock.now()
        told = False
        while True:
            try:
                return ask()
            except Unreachable as error:
                if self._clock.now() - since > self._patience:
                    raise
                if not told:
                    self._say(f"{error}; waiting up to {self._patience:g} s for it to come back.")
                    told = True
                self._clock.sleep(LOOK_EVERY)

    def _show_log(self, name: str) -> None:
        try:
            lines = self._jobs.log(name).rstrip().splitlines()
        except (Unreachable, RuntimeError) as error:
            self._say(f"The log of {name} is not available: {error}")
            return
        for line in lines[-LOG_LINES:]:
            self._say(f"| {line}")


def next_name(run: str, jobs: Mapping[str, object]) -> str:
    """`<run>-<attempt>`: one more than the highest attempt known to the cluster."""
    latest = _latest(run, jobs)
    return f"{run}-{1 if latest is None else int(latest.rpartition('-')[2]) + 1}"


def _latest(run: str, jobs: Mapping[str, object]) -> str | None:
    pattern = re.compile(rf"{re.escape(run)}-(\d+)")
    attempts = [int(match[1]) for name in jobs if (match := pattern.fullmatch(name))]
    return f"{run}-{max(attempts)}" if attempts else None
