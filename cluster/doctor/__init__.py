"""Looks at every machine of a cluster before a run does, and says what to type."""
