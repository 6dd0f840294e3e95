"""Why a call ends: a stable reason for programs, a text for people. Front ends say it in the words of their wire."""

REASON_CHARS_MAX = 1000
"""The longest text of an error. Texts quote what clients sent, which may be long, and gRPC limits all metadata of a
call to 8 KiB."""


class CallError(Exception):
    """Ends the call. `reason` is stable and meant for programs, the text is for people. Neither ever holds a path."""

    def __init__(self, reason: str, text: str, field: str = "", metadata: dict[str, str] | None = None) -> None:
        """`field`: path of the request's field at fault, if any. `metadata`: what else programs should know."""
        super().__init__(text)
        self.reason = reason
        self.field = field
        self.metadata = metadata or {}


class InvalidTerms(Exception):
    """A client asks for impossible terms when it opens a stream. The text says what is wrong with the field."""

    def __init__(self, field: str, text: str) -> None:
        """`field`: name of the field of `StreamRequest`. Front ends know what it is called on their wire."""
        super().__init__(text)
        self.field = field

    def said_of(self, name: str) -> str:
        """Returns the text with what the field is called before it."""
        text = str(self)
        return f"{name}{text}" if text.startswith(":") else f"{name} {text}"


class InvalidFrame(Exception):
    """A frame does not fit its model; the text becomes the reason of its outcome."""
