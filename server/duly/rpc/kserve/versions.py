"""Versions as requests name them."""

from duly.runtime.catalogue import Catalogue, LoadedVersion
from duly.streams.errors import CallError

_DIGITS_MAX = 18


def check_version(version: str) -> None:
    """Raises CallError where what a request states can be no version."""
    if version and not (version.isascii() and version.isdigit() and len(version) <= _DIGITS_MAX):
        text = f"version: should be a number such as '1', or empty for the active one, got {version[:64]!r}"
        raise CallError("INVALID_REQUEST", text, "version")


def find(catalogue: Catalogue, name: str, version: str) -> LoadedVersion:
    """Returns the version that can serve, the active one where none is stated. Raises CallError or ModelError."""
    check_version(version)
    return catalogue.find(name, version)
