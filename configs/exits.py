"""Exit codes of a run, and the signals that ask it to stop, for whoever has it run unattended: a supervisor, a
scheduler, a script."""

import signal

DONE = 0
FAILED = 1
"""The run stopped for a reason that another attempt would meet again: a person has to look."""
WRONG_REQUEST = 2
"""The configuration or the command line is wrong; nothing was started."""
UNUSABLE = 3
"""What the run trained is of no use: it learnt nothing, its editor is far below the base, or its weights grew beyond
all numbers. Another attempt with the same configuration would come to the same."""
RESUMABLE = 75
"""The machinery failed, not the run: another attempt with --resume may well succeed (EX_TEMPFAIL of sysexits.h)."""
INTERRUPTED = 130
"""Ctrl-C."""
TERMINATED = 143
"""Asked to end by a signal other than that of Ctrl-C."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C; machines that are taken away; terminals that are closed; batch systems before the time is up (SLURM:
--signal=USR1@90)."""
