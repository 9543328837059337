"""State of a run on disk, from which it can be resumed: run directory, event log, checkpoints, spool."""
