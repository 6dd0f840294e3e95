"""Places for calls: one connection cannot take those of others."""

from itertools import count

from duly.rpc.places import Place, Places

PORTS = count(1024)


def taken(places: Places, connection: str, calls: int) -> list[Place]:
    found = [places.take(connection) for _ in range(calls)]
    return [place for place in found if place is not None]


def of(address: str) -> str:
    """Returns a connection of that address, as gRPC names it."""
    return f"ipv4:{address}:{next(PORTS)}"


async def test_one_connection_gets_half_and_others_half_of_what_is_left() -> None:
    places = Places(64, may_end=False)
    assert [len(taken(places, name, 100)) for name in "abcd"] == [32, 16, 8, 4]
    assert len(places) == 60


async def test_a_place_that_is_given_back_is_there_for_others() -> None:
    places = Places(4, may_end=False)
    first, _ = taken(places, "a", 3)
    with first:
        assert len(taken(places, "b", 3)) == 1
    assert len(taken(places, "c", 3)) == 1
    assert len(places) == 3


async def test_calls_that_only_wait_make_room_the_oldest_of_who_has_most_first() -> None:
    places = Places(4, may_end=True)
    (few,) = taken(places, "few", 1)
    many = taken(places, "many", 3)
    assert len(taken(places, "new", 1)) == 1
    assert [place.ended.done() for place in many] == [True, False, False]
    assert len(taken(places, "new", 1)) == 1
    assert [place.ended.done() for place in many] == [True, True, False]
    assert not few.ended.done()
    places.give_back(many[0])  # as its call does in the end
    assert len(places) == 4


async def test_a_connection_alone_may_have_all_places_for_calls_that_only_wait() -> None:
    places = Places(4, may_end=True)
    calls = taken(places, "a", 6)
    assert [place.ended.done() for place in calls] == [True, True, False, False, False, False]


async def test_calls_that_wait_for_their_client_make_room_for_those_who_do_not() -> None:
    places = Places(8, may_end=False)
    working = taken(places, "works", 4)
    waiting = taken(places, "waits", 2)
    for place in waiting:
        place.waits(True)
    rest = [*taken(places, "a", 1), *taken(places, "b", 1)]
    assert len(places) == 8
    assert len(taken(places, "new", 1)) == 1
    assert [place.ended.done() for place in waiting] == [True, False]
    waiting[1].waits(False)
    assert not taken(places, "new", 1), "nobody waits for its client any more"
    assert not any(place.ended.done() for place in (*working, *rest))
    waiting[0].waits(True)  # as its call only hears of its end now
    assert not taken(places, "new", 1)


async def test_an_address_gets_three_quarters_however_many_connections_it_has() -> None:
    places = Places(64, may_end=False)
    assert sum(len(taken(places, of("10.0.0.1"), 8)) for _ in range(20)) == 48
    assert len(taken(places, of("10.0.0.2"), 100)) == 8
    assert len(taken(places, of("10.0.0.2"), 100)) == 4
    assert sum(len(taken(places, of("10.0.0.1"), 8)) for _ in range(20)) == 0


async def test_the_address_that_has_most_makes_room_whatever_its_connections_have() -> None:
    places = Places(8, may_end=True)
    few = taken(places, of("10.0.0.1"), 3)
    many = [place for _ in range(5) for place in taken(places, of("10.0.0.2"), 1)]
    assert len(taken(places, of("10.0.0.3"), 1)) == 1
    assert [place.ended.done() for place in many] == [True, False, False, False, False]
    assert not any(place.ended.done() for place in few)
