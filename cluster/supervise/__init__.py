"""Has a run finish although jobs and clusters are lost: submits it, waits, and submits it again with --resume."""
