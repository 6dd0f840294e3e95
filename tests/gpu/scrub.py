"""Takes out of what is to be committed whatever says which machine it was: names, paths, numbers of devices."""

import getpass
import platform
import re
from pathlib import Path

_PATH = re.compile(r"(?<![\w./:-])((?:/[\w.+@~=-]+){2,})/?")
_KEPT = ("/proc", "/sys", "/dev", "/usr", "/lib", "/etc", "/opt", "/run")
"""Paths below these are the system's, alike on many machines."""
_MARKS = (
    (re.compile(r"\b(GPU|MIG)-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), r"\1-…"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "…"),
    (re.compile(r"\b[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]\b"), "…"),  # a place on the PCI bus
    (re.compile(r"\b(?!127\.)(?!0\.0\.0\.0)\d{1,3}(?:\.\d{1,3}){3}(?=:\d+\b)"), "…"),  # an address with a port
)
_NAME_CHARS_MIN = 3
"""Shorter names of machines and users would be found in the middle of words."""


def scrubbed(text: str) -> str:
    """Returns the text with paths cut to their last part, and without the names of this machine and its user."""
    text = _PATH.sub(_last, text)
    for pattern, mark in _MARKS:
        text = pattern.sub(mark, text)
    for name in (platform.node(), _user()):
        if len(name) >= _NAME_CHARS_MIN and name != "root":
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "…", text)
    return text


def scrubbed_json(value: object) -> object:
    """Does as `scrubbed` for all text in plain data, keys too."""
    if isinstance(value, str):
        return scrubbed(value)
    if isinstance(value, dict):
        return {scrubbed(str(key)): scrubbed_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [scrubbed_json(each) for each in value]
    return value


def _last(found: re.Match[str]) -> str:
    path = found[1]
    return path if any(path == root or path.startswith(f"{root}/") for root in _KEPT) else f"…/{Path(path).name}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        return ""
