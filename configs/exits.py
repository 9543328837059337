"""Exit codes of a run, for whoever has it run unattended: a supervisor, a scheduler, a script."""

DONE = 0
FAILED = 1
"""The run stopped for a reason that another attempt would meet again: a person has to look."""
WRONG_REQUEST = 2
"""The configuration or the command line is wrong; nothing was started."""
RESUMABLE = 75
"""The machinery failed, not the run: another attempt with --resume may well succeed (EX_TEMPFAIL of sysexits.h)."""
INTERRUPTED = 130
"""Ctrl-C."""
TERMINATED = 143
"""Asked to end by SIGTERM, as machines do that are taken away."""
