"""Memory and placement of a run, before anything starts."""
