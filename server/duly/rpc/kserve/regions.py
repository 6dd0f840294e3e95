"""Regions of shared memory that clients on this machine have registered, and whose they are.

A region belongs to the connection that registered it, or to all connections of the same principal and user, as the
server is set. It goes when its client gives it up, or when that connection, or the last of those connections, is over:
gRPC tells of no connection's end, so `look` asks the kernel which of them are still there.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from duly.access.evidence import UNKNOWN_UID, LocalConnection
from duly.rpc.kserve.shared_object import SharedObject
from duly.streams.errors import CallError

REGIONS_MAX = 1024
"""So many regions may be registered at once, fewer where the limit of open files is low, as each takes one. A user may
have as many as are left then, half of them alone, so that there are some for who has none; one more is refused:
REGIONS_EXHAUSTED."""
NAME_CHARS_MAX = 256
"""The longest name of a region; a longer one is INVALID_REQUEST."""
OWNER_CONNECTIONS_MAX = 64
"""So many connections keep the regions of one principal; of one that comes when all of these are there it is not known
whether it still is."""
LOOKS = 128
"""Of so many connections it is asked at once whether they are still there. Of more it is asked in turn."""


class Place(NamedTuple):
    """Where in a region of shared memory a tensor is."""

    tensor: str
    """What errors call it: `input 'x'`."""
    region: str
    offset: int
    size_bytes: int

    @property
    def called(self) -> str:
        return f"{self.tensor}, region {self.region[:NAME_CHARS_MAX]!r}"


class Sharing(StrEnum):
    """Whose regions are. The values are those of the setting `kserve_shared_memory`."""

    OFF = "off"
    """There are none."""
    OWN = "own"
    """The connection's that registered them."""
    PRINCIPAL = "principal"
    """All connections' of the principal and user that registered them."""


@dataclass(frozen=True, slots=True)
class Region:
    key: str
    """What its object is called."""
    offset: int
    """Where it begins in its object."""
    size_bytes: int
    memory: SharedObject


class Owner(NamedTuple):
    """Whose regions are."""

    uid: int
    who: int | str
    """The number of the connection, or the name of the principal."""


@dataclass(slots=True)
class _Owned:
    regions: dict[str, Region] = field(default_factory=dict)
    connections: dict[LocalConnection, str] = field(default_factory=dict)
    """The connections that were there when it was looked last, with gRPC's names of them."""


class Regions:
    def __init__(
        self,
        sharing: Sharing,
        connection: Callable[[str], LocalConnection | None],
        regions_max: int = REGIONS_MAX,
    ) -> None:
        """`connection` returns the connection of a client that gRPC names; None: it is not there, or not from this
        machine.
        """
        self._sharing = sharing
        self._connection = connection
        self.regions_max = regions_max
        """So many there may be at once."""
        self._owned: dict[Owner, _Owned] = {}
        self._of_user: Counter[int] = Counter()
        """How many regions each user has."""
        self._to_look: list[tuple[Owner, LocalConnection]] = []

    def of(self, peer: str, principal: str) -> "CallRegions":
        """Returns what a call may use, whose client gRPC names `peer`."""
        return CallRegions(self, peer, principal)

    @property
    def off(self) -> bool:
        """Nobody may use any."""
        return self._sharing is Sharing.OFF

    def __len__(self) -> int:
        return self._of_user.total()

    def owner(self, peer: str, principal: str) -> Owner:
        """Returns whose regions a caller may use. Raises CallError where it may use none."""
        if self.off:
            text = (
                "shared memory is off at this server; its setting kserve_shared_memory turns it on (own or principal)"
            )
            raise CallError("SHARED_MEMORY_OFF", text)
        connection = self._connection(peer)
        if connection is None or connection.uid == UNKNOWN_UID:
            text = "shared memory is for clients on this machine, of whose connection the system says which user has it"
            raise CallError("NOT_PERMITTED", text)
        owner = Owner(connection.uid, connection.number if self._sharing is Sharing.OWN else principal)
        owned = self._owned.get(owner)
        if owned is not None and len(owned.connections) < OWNER_CONNECTIONS_MAX:
            owned.connections[connection] = peer
        return owner

    def register(self, peer: str, principal: str, name: str, key: str, offset: int, size_bytes: int) -> None:
        """Registers a part of an object of shared memory as a region. Raises CallError."""
        owner = self.owner(peer, principal)
        _check_name(name)
        if name in self.of_owner(owner):
            text = f"there is a region {name!r} already; unregister it first, or use another name"
            raise CallError("REGION_EXISTS", text, "name")
        if not size_bytes:
            raise CallError("INVALID_REQUEST", "byte_size should be at least 1, got 0", "byte_size")
        self._check_room(owner.uid)
        memory = SharedObject(key, owner.uid)
        has_bytes = memory.size_bytes()
        if offset + size_bytes > has_bytes:
            memory.close()
            text = f"offset {offset} + byte_size {size_bytes} is beyond the end of the object, which has {has_bytes}"
            raise CallError("INVALID_REQUEST", f"{text} bytes", "byte_size")
        if owner not in self._owned:
            connection = self._connection(peer)
            if connection is None:
                memory.close()
                raise CallError("NOT_PERMITTED", "the connection is over")
            self._owned[owner] = _Owned({}, {connection: peer})
        self._owned[owner].regions[name] = Region(key, offset, size_bytes, memory)
        self._of_user[owner.uid] += 1

    def _check_room(self, uid: int) -> None:
        """Raises CallError where there is no room for one more region of a user."""
        if self._of_user[uid] >= self.regions_max - len(self):
            text = (
                f"this user has {self._of_user[uid]} regions, and all have {len(self)} of the {self.regions_max} that "
            )
            raise CallError("REGIONS_EXHAUSTED", f"{text}there may be; unregister those that are not needed")

    def unregister(self, peer: str, principal: str, name: str) -> None:
        """Gives up a region of the caller, if it has one of that name; with an empty name, all that it has. Raises
        CallError.
        """
        owner = self.owner(peer, principal)
        for each in [name] if name else list(self.of_owner(owner)):
            self._drop(owner, each)
        if not self.of_owner(owner):
            self._owned.pop(owner, None)

    def of_owner(self, owner: Owner) -> dict[str, Region]:
        """Returns the regions by their names."""
        owned = self._owned.get(owner)
        return owned.regions if owned is not None else {}

    def _drop(self, owner: Owner, name: str) -> None:
        region = self.of_owner(owner).pop(name, None)
        if region is not None:
            region.memory.close()
            self._of_user[owner.uid] -= 1
            if not self._of_user[owner.uid]:
                del self._of_user[owner.uid]

    def look(self) -> None:
        """Gives up the regions of those whose connections are over. It must be called now and then."""
        if not self._to_look:
            self._to_look = [(owner, each) for owner, owned in self._owned.items() for each in owned.connections]
        for _ in range(min(LOOKS, len(self._to_look))):
            owner, connection = self._to_look.pop()
            owned = self._owned.get(owner)
            peer = owned.connections.get(connection) if owned is not None else None
            if owned is None or peer is None or self._connection(peer) == connection:
                continue
            del owned.connections[connection]
            if not owned.connections:
                self._give_up(owner)

    def _give_up(self, owner: Owner) -> None:
        for name in list(self.of_owner(owner)):
            self._drop(owner, name)
        self._owned.pop(owner, None)

    def close(self) -> None:
        """Gives up all regions."""
        for owner in list(self._owned):
            self._give_up(owner)


class CallRegions:
    """The regions that one call may use. Whose they are is asked when it first uses one: its connection stays as long
    as it does.
    """

    def __init__(self, regions: Regions, peer: str, principal: str) -> None:
        self._regions = regions
        self._peer = peer
        self._principal = principal
        self._owner: Owner | None = None

    def check(self, place: Place) -> Region:
        """Returns the region of a place. Raises CallError where the caller has no such region, or it is not in it."""
        owner = self._owner or self._regions.owner(self._peer, self._principal)
        region = self._regions.of_owner(owner).get(place.region)
        if region is None:
            text = f"{place.called}: there is no such region of shared memory that this caller registered"
            raise CallError("REGION_NOT_FOUND", text)
        self._owner = owner
        if not place.size_bytes:
            raise CallError("INVALID_REQUEST", f"{place.called}: shared_memory_byte_size should be at least 1, got 0")
        if place.offset + place.size_bytes > region.size_bytes:
            text = f"offset {place.offset} + byte size {place.size_bytes} is beyond its end, it has {region.size_bytes}"
            raise CallError("INVALID_REQUEST", f"{place.called}: {text} bytes")
        return region

    def read(self, place: Place) -> bytes:
        """Returns a copy of what is at a place. Raises CallError."""
        region = self.check(place)
        data = region.memory.read(region.offset + place.offset, place.size_bytes)
        if len(data) != place.size_bytes:
            raise _shortened(place, len(data))
        return data

    def write(self, place: Place, parts: Sequence[bytes]) -> None:
        """Writes an output to a place. Raises CallError, also where the output is larger than the place."""
        region = self.check(place)
        size_bytes = sum([len(part) for part in parts])
        if size_bytes > place.size_bytes:
            text = f"shared_memory_byte_size is {place.size_bytes}, the output has {size_bytes} bytes"
            raise CallError("INVALID_REQUEST", f"{place.called}: {text}")
        start = region.offset + place.offset
        has_bytes = region.memory.size_bytes() - start
        if has_bytes < size_bytes:
            raise _shortened(place, max(0, has_bytes))
        region.memory.write(start, parts)


def _shortened(place: Place, has_bytes: int) -> CallError:
    text = f"of {place.size_bytes} bytes at offset {place.offset} only {has_bytes} are there, its object is shorter now"
    return CallError("INVALID_REQUEST", f"{place.called}: {text}")


def _check_name(name: str) -> None:
    if not name:
        raise CallError("INVALID_REQUEST", "name should not be empty: that stands for all regions", "name")
    if len(name) > NAME_CHARS_MAX:
        text = f"name has {len(name)} characters, at most {NAME_CHARS_MAX} are taken"
        raise CallError("INVALID_REQUEST", text, "name")
