"""Rollout: one task in, one trajectory group out; Ray workers and their fleet."""
