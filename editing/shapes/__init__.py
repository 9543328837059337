"""The embedded benchmark: procedural scenes with exact masks and ground truth, and its base editor."""
