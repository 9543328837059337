"""Edits in files: the parts of the commands that score and calibrate them."""
