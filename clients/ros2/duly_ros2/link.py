"""The thread in which streams live: an event loop, the client and the feeds. The node's thread hands messages over."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from duly_client import Client, Tls
from duly_ros2.answers import Publisher
from duly_ros2.feed import Feed
from duly_ros2.settings import Settings

HANDED_MAX = 1024
"""Messages that are handed over and not taken yet; then the node's thread waits, and the middleware's queues fill."""
ROOM_S_MAX = 1.0
"""How long it waits; then the message is answered without being sent."""

Result = TypeVar("Result")


class Link:
    """Opens all streams in a thread of its own. Raises DulyError, ValueError and OSError where one cannot open."""

    def __init__(self, settings: Settings, publisher: Publisher, log: Callable[[str], None]) -> None:
        self._loop = asyncio.new_event_loop()
        self._room = threading.BoundedSemaphore(HANDED_MAX)
        self._thread = threading.Thread(target=self._loop.run_forever, name="duly-streams", daemon=True)
        self._thread.start()
        self._client: Client | None = None
        self.feeds: tuple[Feed, ...] = ()
        try:
            self._wait(self._open(settings, publisher, log))
        except BaseException:
            self.close()
            raise

    def take(self, feed: Feed, which: int, message: bytes, published_ns: int, now_ns: int) -> None:
        """Hands over a message of a topic, as `Feed.take` has it; in the node's thread."""
        if self._room.acquire(timeout=ROOM_S_MAX):
            self._loop.call_soon_threadsafe(self._taken, feed, which, message, published_ns, now_ns)
        else:
            self.do(partial(feed.drop, which, message, published_ns))

    def do(self, call: Callable[[], object]) -> None:
        """Calls something in the streams' thread, soon."""
        self._loop.call_soon_threadsafe(call)

    def stop(self, reason: str) -> None:
        """Returns when all messages that came are answered."""
        self._wait(self._stop(reason))

    def resume(self) -> None:
        """Takes messages again after `stop`."""
        for feed in self.feeds:
            self.do(feed.resume)

    def close(self) -> None:
        """Ends all streams, and the thread."""
        with suppress(Exception):
            self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _taken(self, feed: Feed, which: int, message: bytes, published_ns: int, now_ns: int) -> None:
        self._room.release()
        feed.take(which, message, published_ns, now_ns)

    def _wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self, settings: Settings, publisher: Publisher, log: Callable[[str], None]) -> None:
        tls = None
        if settings.ca_file or settings.cert_file:
            tls = Tls(ca=settings.ca_file or None, cert=settings.cert_file or None, key=settings.key_file or None)
        self._client = Client(
            settings.server,
            tls=tls,
            token_file=settings.token_file or None,
            open_timeout_s=settings.open_timeout_s,
        )
        await self._client.__aenter__()
        future_ns = round(settings.future_ms * 1e6)
        feeds = [Feed(stream, self._client, publisher, future_ns, log) for stream in settings.streams]
        self.feeds = tuple(feeds)
        opened = await asyncio.gather(*(feed.open() for feed in feeds), return_exceptions=True)
        for feed, error in zip(feeds, opened, strict=True):
            if error is not None:
                error.add_note(feed.settings.name)
                raise error

    async def _stop(self, reason: str) -> None:
        await asyncio.gather(*(feed.stop(reason) for feed in self.feeds))

    async def _close(self) -> None:
        await asyncio.gather(*(feed.close() for feed in self.feeds))
        if self._client is not None:
            await self._client.close()
