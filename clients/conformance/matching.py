"""Compares an event with what a case wants of it."""

from typing import Any

TOLERANCE = 1e-5


def fits(wanted: dict[str, Any], event: dict[str, Any]) -> str:
    """Returns what does not fit, in words; empty: all does."""
    for key, value in wanted.items():
        problem = _compare(key, value, event)
        if problem:
            return f"{problem}, in {event}"
    return ""


def _compare(key: str, wanted: Any, event: dict[str, Any]) -> str:
    for ending, holds, words in (
        ("_says", lambda got: str(wanted) in got, "to say"),
        ("_has", lambda got: wanted in got, "to have"),
        ("_min", lambda got: got >= wanted, "to be at least"),
        ("_max", lambda got: got <= wanted, "to be at most"),
    ):
        name = key.removesuffix(ending)
        if name != key and key not in event:
            got = event.get(name)
            return "" if got is not None and holds(got) else f"expected {name} {words} {wanted!r}, got {got!r}"
    got = event.get(key)
    if wanted == "none":
        return "" if got is None else f"expected no {key}, got {got!r}"
    if isinstance(wanted, list) and wanted and isinstance(wanted[0], str) and isinstance(got, str):
        return "" if got in wanted else f"expected {key} to be one of {wanted}, got {got!r}"
    return "" if _equal(wanted, got) else f"expected {key} to be {wanted!r}, got {got!r}"


def _equal(wanted: Any, got: Any) -> bool:
    """Numbers are equal within the tolerance; of tables, what is wanted is in what came, beside other keys."""
    if isinstance(wanted, dict):
        return isinstance(got, dict) and all(key in got and _equal(value, got[key]) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(got, list) and len(wanted) == len(got) and all(map(_equal, wanted, got))
    if isinstance(wanted, bool) or isinstance(got, bool) or not isinstance(wanted, int | float):
        return bool(wanted == got)
    return isinstance(got, int | float) and abs(wanted - got) <= TOLERANCE * max(1.0, abs(wanted))
