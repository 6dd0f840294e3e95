class AccessError(Exception):
    """A policy, certificate or key cannot be used. The text names the file, what is wrong, and what would be right."""


class NotAuthenticated(Exception):
    """A caller does not prove who it is. The text is for the caller, so it says nothing of who is known."""
