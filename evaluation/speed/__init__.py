"""What the system costs beyond the work it cannot do without: `python -m evaluation.speed`."""
