"""Where in config.pbtxt a setting is from: what errors say of places in model.toml is said of its lines."""

import re
from collections.abc import Mapping

TRITON_FILE = "config.pbtxt"

Lines = Mapping[str, int]
"""The line of config.pbtxt for places of model.toml, such as `input[0].shape`."""

_PLACE = re.compile(r"[a-z_]+(?:\[\d+\])?(?:\.[a-z_]+(?:\[\d+\])?)*")
_IN_TOML = re.compile(r"([\w.-]*/)model\.toml(?: for [^:]*)?: ")
_LAST_PART = re.compile(r"(?:\.[a-z_]+|\[\d+\])$")


def with_line(sentence: str, lines: Lines) -> str:
    """Puts the line before a sentence that begins with a place of model.toml, if it is known."""
    match = _PLACE.match(sentence)
    place = match[0] if match is not None else ""
    while place and place not in lines:
        shorter = _LAST_PART.sub("", place)
        place = shorter if shorter != place else ""
    return f"line {lines[place]}: {sentence}" if place else sentence


def in_pbtxt(reason: str, lines: Lines) -> str:
    """Says config.pbtxt and the line where a reason begins with model.toml and a place in it; `lines`: as for
    `with_line`; where there are none, the settings are from model.toml, and the reason stays as it is.
    """
    match = _IN_TOML.match(reason)
    if not lines or match is None:
        return reason
    return f"{match[1]}{TRITON_FILE}: {with_line(reason[match.end() :], lines)}"
