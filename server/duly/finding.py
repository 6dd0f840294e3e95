"""What `duly doctor` finds out."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one thing."""

    subject: str
    level: Level
    found: str
    advice: str = ""
    """What to do about it; empty where all is well."""


@dataclass(frozen=True, slots=True)
class ProviderFinding(Finding):
    """What was found out about an execution provider: a row of a table."""

    provider: str = ""
    """As ONNX Runtime calls it."""
    installed: str = ""
    """The distribution that brings it, with its version; empty: none is."""
    devices: str = ""
    """What of its devices the system, or the provider itself, shows; empty: nothing."""
    lane: str = ""
    """The lane that was tried, or would be."""
    runs: bool = False
    """Whether a graph was loaded there and run, all of it by this provider, with the right result."""
