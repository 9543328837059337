"""Checks of every machine of a cluster before a run, with what to type where one fails."""
