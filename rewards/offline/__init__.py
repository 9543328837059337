"""Edits in files: what the commands that score and calibrate them are made of."""
