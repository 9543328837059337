"""What the soak raises when a promise is broken."""


class Broken(AssertionError):
    """A promise that was not kept; the sentence says which."""
