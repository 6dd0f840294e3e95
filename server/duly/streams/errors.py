"""Why a call ends: a stable reason for programs, a text for people. Front ends say it in the words of their wire."""

REASON_CHARS_MAX = 1000
"""Texts quote what clients sent, which may be long; gRPC's own limit for all metadata of a call is 8 KiB."""


class CallError(Exception):
    """Ends the call. `reason` is stable and meant for programs, the text for people; neither ever holds a path."""

    def __init__(self, reason: str, text: str, field: str = "", metadata: dict[str, str] | None = None) -> None:
        """`field`: path of the request's field at fault, if any. `metadata`: what programs should know besides."""
        super().__init__(text)
        self.reason = reason
        self.field = field
        self.metadata = metadata or {}


class InvalidTerms(Exception):
    """What a client asks for when it opens a stream can't be. The text is what is wrong with the field."""

    def __init__(self, field: str, text: str) -> None:
        """`field`: name of the field of `StreamRequest`; front ends know what it is called on their wire."""
        super().__init__(text)
        self.field = field


class InvalidFrame(Exception):
    """A frame does not fit its model; the text becomes the reason of its outcome."""
