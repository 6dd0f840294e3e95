"""A bound on bytes that are under way."""

import asyncio
from collections import deque


class ByteBudget:
    """A limit on bytes under way: who finds no room waits, in order. What is larger than the limit goes alone."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._taken_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, size_bytes: int) -> None:
        """Returns when there is room, which is then taken."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._taken_bytes -= size_bytes
            self._let_in()
            raise

    def leave(self, size_bytes: int) -> None:
        """Gives back the bytes that `enter` took."""
        self._taken_bytes -= size_bytes
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            size_bytes, turn = self._waiting[0]
            if not turn.cancelled():
                if self._taken_bytes and self._taken_bytes + size_bytes > self._most_bytes:
                    return
                self._taken_bytes += size_bytes
                turn.set_result(None)
            self._waiting.popleft()
