"""Turns, one at a time, that are shared by who waits for them and not by who asks most often.

Theory. In one queue whoever asks a thousand times keeps everybody else waiting for a thousand turns. So turns go round
(round robin, Nagle 1987): each principal in turn, of a principal each of its connections in turn, and of a connection
whoever has waited longest. Where too many wait, one of the connection that has most waiting is sent away.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_Waiting = asyncio.Future[None]


class TooManyWait(Exception):
    """There is no room for one more to wait."""


class FairTurns:
    def __init__(self, waiting_max: int) -> None:
        self.waiting = 0
        """How many wait for their turn."""
        self._waiting_max = waiting_max
        self._taken = False
        self._rounds: OrderedDict[str, OrderedDict[str, deque[_Waiting]]] = OrderedDict()
        """By principal and connection, who waits; whose turn is next stands first. No queue is empty."""

    @asynccontextmanager
    async def turn(self, principal: str, connection: str, *, whoever_waits: bool = False) -> AsyncIterator[None]:
        """Waits for a turn, which ends with the context. Raises TooManyWait, at once or later; `whoever_waits`: it is
        let in however many wait, as its caller sees to it that they are few.
        """
        if self._taken:
            if self.waiting >= self._waiting_max and not whoever_waits:
                self._send_away(principal, connection)
            await self._wait(principal, connection)
        self._taken = True
        try:
            yield
        finally:
            self._taken = False
            self._next()

    async def _wait(self, principal: str, connection: str) -> None:
        mine: _Waiting = asyncio.get_running_loop().create_future()
        self._rounds.setdefault(principal, OrderedDict()).setdefault(connection, deque()).append(mine)
        self.waiting += 1
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self._taken = False  # the turn had come, and is not wanted any more
                self._next()
            else:
                self._leaves(principal, connection, mine)
            raise

    def _next(self) -> None:
        """Gives the turn to whose it is, if anybody waits."""
        while self._rounds:
            principal, connections = next(iter(self._rounds.items()))
            connection, queue = next(iter(connections.items()))
            first = queue[0]
            connections.move_to_end(connection)
            self._rounds.move_to_end(principal)
            self._leaves(principal, connection, first)
            if not first.done():
                self._taken = True
                first.set_result(None)
                return

    def _send_away(self, principal: str, connection: str) -> None:
        """Makes room for one more of that connection, by sending away the newest of the connection that has most.
        Raises TooManyWait where that is itself.
        """
        most = max(
            ((len(queue), name, at) for name, connections in self._rounds.items() for at, queue in connections.items()),
            default=(0, "", ""),
        )
        if len(self._queue(principal, connection)) >= most[0] - 1:
            raise TooManyWait
        newest = self._rounds[most[1]][most[2]][-1]
        self._leaves(most[1], most[2], newest)
        if not newest.done():
            newest.set_exception(TooManyWait())

    def _leaves(self, principal: str, connection: str, who: _Waiting) -> None:
        queue = self._queue(principal, connection)
        if who in queue:
            queue.remove(who)
            self.waiting -= 1
            if not queue:
                del self._rounds[principal][connection]
            if not self._rounds[principal]:
                del self._rounds[principal]

    def _queue(self, principal: str, connection: str) -> deque[_Waiting]:
        connections = self._rounds.get(principal)
        return connections.get(connection, deque()) if connections is not None else deque()
