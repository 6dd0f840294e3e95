"""Regions of shared memory that clients on this machine have registered."""

from duly.rpc.kserve.requests import Place
from duly.streams.errors import CallError


class Regions:
    def read(self, owner: str, place: Place) -> bytes:
        """Returns what is at a place. Raises CallError where the owner has no such place."""
        raise CallError("INVALID_REQUEST", f"there is no region {place.region!r} of shared memory")

    def write(self, owner: str, place: Place, parts: list[bytes]) -> None:
        """Writes to a place. Raises CallError where the owner has no such place, or it is too small."""
        raise CallError("INVALID_REQUEST", f"there is no region {place.region!r} of shared memory")
