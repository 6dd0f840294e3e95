"""The error with which a server does not start."""


class StartError(Exception):
    """The server cannot start; the text says why and what would help."""
