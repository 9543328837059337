"""The cache of judge scores, and the server of a run's own that keeps it."""
