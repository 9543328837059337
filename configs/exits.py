"""Exit codes of a run and the signals that stop it, for a supervisor, scheduler or script that runs it unattended."""

import signal

DONE = 0
FAILED = 1
"""The run failed in a way that a retry would not fix: an operator has to look."""
WRONG_REQUEST = 2
"""The configuration or the command line is invalid; nothing was started."""
UNUSABLE = 3
"""The result is unusable: the run learnt nothing, its editor is far below the base, or its weights overflowed. A retry
with the same configuration would end the same way."""
RESUMABLE = 75
"""Retryable: the infrastructure failed, not the run; a retry with --resume may succeed (EX_TEMPFAIL, sysexits.h)."""
INTERRUPTED = 130
"""Ctrl-C."""
TERMINATED = 143
"""Stopped by a signal other than Ctrl-C."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C; preemption; a closed terminal; a batch system's warning before the time limit (SLURM: --signal=USR1@90)."""
