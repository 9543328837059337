"""Advantages, surrogate, update, ledger, checkpoints, publishing and the main loop."""
