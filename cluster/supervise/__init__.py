"""Supervision of a run across lost jobs and clusters: submit it, wait, and resubmit it with --resume."""
