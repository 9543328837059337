"""Backends of the main loop, in this process or on Ray, behind one protocol."""
