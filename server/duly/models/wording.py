"""How a list is said in a sentence, and how a text is that came from elsewhere."""

from collections.abc import Sequence


def first_few(parts: Sequence[str], most: int, between: str = ", ", last: str = " and ") -> str:
    """Names the first parts, at most `most` of them, and counts the rest: "a, b and 3 more"."""
    more = len(parts) - most
    return between.join(parts[:most]) + (f"{last}{more} more" if more > 0 else "")


def in_print(text: str) -> str:
    """Writes as escapes what a log, a terminal or a message cannot hold, such as `\\x1b` or bytes that are no UTF-8."""
    if text.isprintable():
        return text
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
