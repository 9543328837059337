"""Errors that end a run."""

from __future__ import annotations


class RunFailed(RuntimeError):
    """The run cannot go on; the sentence says why and what to do."""


class RunRefused(RunFailed):
    """The run is not begun or continued as asked; the same request would be refused again, and nothing was changed."""


class RunInterrupted(RunFailed):
    """Processes, nodes or servers that the run needs are gone, do not respond, or belong to another run; an attempt
    with --resume may find them again. Not retryable where an error of the run's own code caused it, see
    `learner.retryable`."""


class RunInUse(RunRefused, RunInterrupted):
    """Another process works in the run's folder."""


class LearnerLost(RunInterrupted):
    """The learner is dead, hangs, or found a fault: its state is lost or cannot be trusted any more."""
