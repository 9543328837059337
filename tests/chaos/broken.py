"""The error for a broken promise."""


class Broken(AssertionError):
    """A promise that was not kept; the sentence says which."""
