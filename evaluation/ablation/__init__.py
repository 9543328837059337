"""Ablations: rows of configurations over seeds, each table a command; `python -m evaluation.ablation --help`."""
