"""Modules for the inside of vLLM's own environment, imported there by their bare names; nothing here imports ours."""
