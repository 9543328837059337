"""Scorers for candidates, their composition, and the reward pool."""
