"""What a run leaves on disk and goes on from: run directory, event log, checkpoints, spool."""
