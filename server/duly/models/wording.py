"""How a list is said in a sentence."""

from collections.abc import Sequence


def first_few(parts: Sequence[str], most: int, between: str = ", ", last: str = " and ") -> str:
    """Names the first parts, at most `most` of them, and counts the rest: "a, b and 3 more"."""
    more = len(parts) - most
    return between.join(parts[:most]) + (f"{last}{more} more" if more > 0 else "")
