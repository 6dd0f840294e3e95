"""Regions of shared memory: their arithmetic, whose they are, and when they go. Objects are the system's own."""

import contextlib
import os
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.access.evidence import UNKNOWN_UID, LocalConnection
from duly.rpc.kserve import regions as tested
from duly.rpc.kserve.regions import LOOKS, CallRegions, Place, Regions, Sharing
from duly.streams.errors import CallError

OBJECT_BYTES = 4096
U64 = st.one_of(st.integers(0, 2 * OBJECT_BYTES), st.integers(0, 2**64 - 1), st.integers(2**64 - 5000, 2**64 - 1))
I63 = st.one_of(st.integers(0, 2 * OBJECT_BYTES), st.integers(0, 2**63 - 1), st.integers(2**63 - 5000, 2**63 - 1))
CONTENTS = bytes(number % 251 for number in range(OBJECT_BYTES))
UID = os.getuid()


class Connections:
    """Who is connected, by gRPC's names."""

    def __init__(self) -> None:
        self.there: dict[str, LocalConnection] = {}
        self.asked = 0

    def connect(self, *names: str, uid: int = UID) -> None:
        for name in names:
            self.there[name] = LocalConnection(uid, secrets.randbits(63))

    def of(self, name: str) -> LocalConnection | None:
        self.asked += 1
        return self.there.get(name)


@pytest.fixture(scope="module")
def key() -> Iterator[str]:
    """The key of an object that holds CONTENTS."""
    name = f"duly-test-{secrets.token_hex(8)}"
    with open(f"/dev/shm/{name}", "xb") as file:
        file.write(CONTENTS)
    yield name
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"/dev/shm/{name}")


def made(sharing: Sharing = Sharing.OWN, regions_max: int = 1024) -> tuple[Regions, Connections]:
    connections = Connections()
    connections.connect("a", "b")
    return Regions(sharing, connections.of, regions_max), connections


@given(at=U64, size=U64, offset=I63, taken=I63)
def test_nothing_outside_of_a_region_is_ever_read(key: str, at: int, size: int, offset: int, taken: int) -> None:
    place = Place("input 'x'", "r", offset, taken)
    with contextlib.closing(made()[0]) as regions:
        if not size or at + size > OBJECT_BYTES:
            with pytest.raises(CallError, match="byte_size"):
                regions.register("a", "p", "r", key, at, size)
            return
        regions.register("a", "p", "r", key, at, size)
        if not taken or offset + taken > size:
            with pytest.raises(CallError, match=r"at least 1|beyond its end"):
                regions.of("a", "p").read(place)
            return
        assert regions.of("a", "p").read(place) == CONTENTS[at : at + size][offset : offset + taken]


@given(
    size=st.integers(1, 64),
    offset=st.integers(0, 80),
    place=st.integers(0, 80),
    parts=st.lists(st.binary(max_size=40), max_size=4),
)
def test_nothing_outside_of_a_place_is_ever_written(size: int, offset: int, place: int, parts: list[bytes]) -> None:
    name = f"duly-test-{secrets.token_hex(8)}"
    path = f"/dev/shm/{name}"
    before = bytes([170]) * 96
    with open(path, "xb") as file:
        file.write(before)
    regions, _ = made()
    data = b"".join(parts)
    try:
        with contextlib.closing(regions):
            regions.register("a", "p", "r", name, 16, size)
            fits = place > 0 and offset + place <= size and len(data) <= place
            try:
                regions.of("a", "p").write(Place("output 'y'", "r", offset, place), parts)
            except CallError:
                assert not fits
                data = b""
            else:
                assert fits
        start = 16 + offset if data else 0
        with open(path, "rb") as file:
            assert file.read() == before[:start] + data + before[start + len(data) :]
    finally:
        os.unlink(path)


def test_regions_of_those_who_are_gone_are_given_up(key: str) -> None:
    regions, connections = made()
    regions.register("a", "p", "r", key, 0, 16)
    regions.register("b", "p", "r", key, 0, 16)
    del connections.there["a"]
    regions.look()
    assert len(regions) == 1
    with pytest.raises(CallError, match="this machine"):
        regions.of("a", "p").check(Place("input 'x'", "r", 0, 1))
    assert regions.of("b", "p").read(Place("input 'x'", "r", 0, 4)) == CONTENTS[:4]
    regions.close()
    assert not len(regions)


def test_who_takes_the_address_of_another_gets_nothing_of_his(key: str) -> None:
    regions, connections = made()
    regions.register("a", "p", "r", key, 0, 16)
    connections.connect("a")  # anew, before the server has looked
    with pytest.raises(CallError) as error:
        regions.of("a", "p").check(Place("input 'x'", "r", 0, 1))
    assert error.value.reason == "REGION_NOT_FOUND"
    regions.look()
    assert not len(regions)


def test_users_of_one_principal_are_told_apart(key: str) -> None:
    regions, connections = made(Sharing.PRINCIPAL)
    connections.connect("other", uid=UID + 1)
    regions.register("a", "127.0.0.1", "r", key, 0, 16)
    assert regions.of("b", "127.0.0.1").check(Place("input 'x'", "r", 0, 16))
    for peer, principal in (("other", "127.0.0.1"), ("b", "another")):
        with pytest.raises(CallError) as error:
            regions.of(peer, principal).check(Place("input 'x'", "r", 0, 16))
        assert error.value.reason == "REGION_NOT_FOUND"
    with pytest.raises(CallError) as error:
        regions.register("other", "127.0.0.1", "r", key, 0, 16)
    assert error.value.reason == "NOT_PERMITTED"
    regions.close()


def test_who_could_be_any_user_shares_nothing(key: str) -> None:
    regions, connections = made()
    connections.connect("unknown", uid=UNKNOWN_UID)
    with pytest.raises(CallError, match="which user has it"):
        regions.register("unknown", "p", "r", key, 0, 16)


def test_regions_of_a_principal_stay_until_its_last_connection_goes(key: str) -> None:
    regions, connections = made(Sharing.PRINCIPAL)
    regions.register("a", "p", "r", key, 0, 16)
    call = regions.of("b", "p")
    call.read(Place("input 'x'", "r", 0, 4))
    del connections.there["a"]
    regions.look()
    assert call.read(Place("input 'x'", "r", 0, 4)) == CONTENTS[:4]
    del connections.there["b"]
    regions.look()
    assert not len(regions)


def test_a_call_asks_once_whose_regions_it_may_use(key: str) -> None:
    regions, connections = made()
    regions.register("a", "p", "r", key, 0, 16)
    call = regions.of("a", "p")
    before = connections.asked
    for _ in range(10):
        call.read(Place("input 'x'", "r", 0, 4))
    assert connections.asked == before + 1
    regions.close()


def test_many_connections_are_looked_at_in_turn(key: str) -> None:
    regions, connections = made()
    names = [f"c{number}" for number in range(LOOKS + 50)]
    connections.connect(*names)
    for name in names:
        regions.register(name, "p", "r", key, 0, 16)
    connections.there.clear()
    connections.asked = 0
    regions.look()
    assert (connections.asked, len(regions)) == (LOOKS, 50)
    regions.look()
    assert not len(regions)


def test_one_user_leaves_room_for_another(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    regions, connections = made(regions_max=8)
    connections.connect("other", uid=UID + 1)
    for number in range(4):
        regions.register("a", "p", str(number), key, 0, 16)
    with pytest.raises(CallError) as error:
        regions.register("b", "p", "more", key, 0, 16)
    assert error.value.reason == "REGIONS_EXHAUSTED"
    with pytest.raises(CallError) as error:
        regions.register("other", "p", "r", key, 0, 16)
    assert error.value.reason == "NOT_PERMITTED", "there was room, but the object is not its own"
    regions.unregister("a", "p", "0")
    regions.register("b", "p", "more", key, 0, 16)
    regions.close()
    assert not len(regions)


def test_connections_that_keep_a_principals_regions_are_bounded(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "OWNER_CONNECTIONS_MAX", 2)
    regions, connections = made(Sharing.PRINCIPAL)
    connections.connect("c")
    regions.register("a", "p", "r", key, 0, 16)
    for name in ("b", "c"):
        CallRegions(regions, name, "p").check(Place("input 'x'", "r", 0, 16))
    del connections.there["a"], connections.there["b"]
    regions.look()
    assert not len(regions), "c came when two were there"
