"""Held-out metrics, ablations and speed measurements."""
