"""The machinery below the loop, in this process or on Ray, behind one protocol."""
