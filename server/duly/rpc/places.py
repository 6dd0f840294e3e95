"""Places for calls: how many may be under way at once, and who gets them when there are not enough.

A connection alone may take half of the places. Each further one takes from what is left in the same way, so that there
is nearly always a place for who has none. Where calls may be ended, as they only wait (for their client to say what it
wants, or for something to happen that they watch), there always is: the connection that has the most calls gives up its
oldest.
"""

import asyncio
from types import TracebackType


class Place:
    """One call's place, a context that gives it back. `ended` is done when another call needs it."""

    __slots__ = ("_places", "connection", "ended")

    def __init__(self, places: "Places", connection: str) -> None:
        self._places = places
        self.connection = connection
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __enter__(self) -> "Place":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.give_back(self)


class Places:
    def __init__(self, places: int, *, may_end: bool) -> None:
        """`may_end`: whether calls in these places may be ended for others."""
        self.places = places
        self._may_end = may_end
        self._taken: dict[Place, None] = {}
        """All taken places, the oldest first."""
        self._by_connection: dict[str, dict[Place, None]] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, connection: str) -> Place | None:
        """Returns a place, or None where there is none for that connection."""
        left = self.places - len(self._taken)
        if self._may_end:
            if left <= 0:
                self._make_room()
        elif left <= 0 or len(self._by_connection.get(connection, ())) >= left:
            return None
        place = Place(self, connection)
        self._taken[place] = None
        self._by_connection.setdefault(connection, {})[place] = None
        return place

    def give_back(self, place: Place) -> None:
        """Gives the place back, if it was not given to another call meanwhile."""
        if self._taken.pop(place, place) is None:
            of_connection = self._by_connection[place.connection]
            del of_connection[place]
            if not of_connection:
                del self._by_connection[place.connection]

    def _make_room(self) -> None:
        """Ends the oldest call of the connection that has the most. Of equals it is the oldest of all."""
        most = max(len(places) for places in self._by_connection.values())
        oldest = next(place for place in self._taken if len(self._by_connection[place.connection]) == most)
        self.give_back(oldest)
        if not oldest.ended.done():
            oldest.ended.set_result(None)
