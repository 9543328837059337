"""Overhead of the system relative to the indispensable work: `python -m evaluation.speed`."""
