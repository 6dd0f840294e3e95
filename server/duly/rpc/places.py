"""Places for calls: how many may be under way at once, and who gets them when there are not enough.

A connection alone may take half of the places, and an address with all its connections three quarters. Each further
one takes from what is left in the same way, so that there is nearly always a place for who has none. Where calls may be
ended, there always is: of the address that has the most of them, and of its connection that has, the oldest gives up
its place. Those that wait for their client (`waits`) may always be ended, and all of them where calls only watch
something.
"""

import asyncio
import itertools
from collections import Counter
from types import TracebackType

from duly.rpc.principal import principal_of

ADDRESS_TIMES_LEFT = 3
"""An address may have so many times as many calls as there are places left."""
_NUMBERS = itertools.count(1)


class Place:
    """One call's place, a context that gives it back. `ended` is done when another call needs it."""

    __slots__ = ("_places", "address", "connection", "ended", "number")

    def __init__(self, places: "Places", connection: str, address: str) -> None:
        self._places = places
        self.connection = connection
        self.address = address
        self.number = next(_NUMBERS)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> "Place":
        return self

    def waits(self, waits: bool) -> None:
        """Notes whether the call waits for its client: for its request, for its turn as it has asked too much, or until
        it takes the answer.
        """
        self._places.may_end(self, waits)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.give_back(self)


class Places:
    def __init__(self, places: int, *, may_end: bool) -> None:
        """`may_end`: whether all calls in these places may be ended for others."""
        self.places = places
        self._all_may_end = may_end
        self._taken: dict[Place, None] = {}
        self._by_connection: Counter[str] = Counter()
        self._by_address: Counter[str] = Counter()
        self._may_end: dict[str, dict[Place, None]] = {}
        """The places that may be needed for others, by connection, the oldest first."""

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, connection: str) -> Place | None:
        """Returns a place, or None where there is none for that connection, which is named as gRPC names its peer."""
        left = self.places - len(self._taken)
        address = principal_of(connection)
        is_modest = self._by_connection[connection] < left and self._by_address[address] < ADDRESS_TIMES_LEFT * left
        if not (left > 0 and (self._all_may_end or is_modest)) and not self._make_room():
            return None
        place = Place(self, connection, address)
        self._taken[place] = None
        self._by_connection[connection] += 1
        self._by_address[address] += 1
        if self._all_may_end:
            self.may_end(place, True)
        return place

    def may_end(self, place: Place, may_end: bool) -> None:
        """Notes whether a call may be ended for others."""
        if may_end and place in self._taken:
            self._may_end.setdefault(place.connection, {})[place] = None
        elif not self._all_may_end and (of_connection := self._may_end.get(place.connection)) is not None:
            of_connection.pop(place, None)
            if not of_connection:
                del self._may_end[place.connection]

    def give_back(self, place: Place) -> None:
        """Gives the place back, if it was not given to another call meanwhile."""
        if self._taken.pop(place, place) is None:
            for counts, name in ((self._by_connection, place.connection), (self._by_address, place.address)):
                counts[name] -= 1
                if not counts[name]:
                    del counts[name]
            of_connection = self._may_end.get(place.connection, {})
            of_connection.pop(place, None)
            if not of_connection:
                self._may_end.pop(place.connection, None)

    def _make_room(self) -> bool:
        """Ends a call that may be ended: of the address that has the most of them, of its connection that has the most,
        and of that the oldest. Returns whether there is one.
        """
        of_address: Counter[str] = Counter()
        oldest_of = {}
        for connection, places in self._may_end.items():
            oldest_of[connection] = next(iter(places))
            of_address[oldest_of[connection].address] += len(places)
        if not oldest_of:
            return False

        def greed(place: Place) -> tuple[int, int, int]:
            return of_address[place.address], len(self._may_end[place.connection]), -place.number

        oldest = max(oldest_of.values(), key=greed)
        self.give_back(oldest)
        if not oldest.ended.done():
            oldest.ended.set_result(None)
        return True
