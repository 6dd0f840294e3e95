"""The streams of all rollouts, in one event loop, for callers in the threads of the simulator's server."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import TimeoutError as NoAnswer

from duly_client import Client, DulyError, Outcome, Stream, StreamTerms
from duly_client.types import Payload
from duly_gateways.egodriver.settings import Settings

OPEN_S = 10.0
"""How long a rollout's stream may take to open."""
STREAM_BUDGET_MS = 10_000.0
"""The budget with which streams open. Each frame states its own, which follows from the step that it is for."""
IDLE_S = 600.0
"""Where there is no room for another rollout, those end that have asked for no plan for so long."""
ANSWER_S = 1.0
"""How long a thread waits for the event loop beyond the budget of a plan."""

Late = Callable[[int, Outcome], None]
"""Is given the id of a frame and its outcome, where nobody waits for it any more; in the event loop."""


class _Link:
    def __init__(self, stream: Stream, late: Late) -> None:
        self.stream = stream
        self.late = late
        self.waiting: dict[int, asyncio.Future[Outcome]] = {}
        self.used_s = asyncio.get_running_loop().time()
        """When a plan was last asked for."""
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for outcome in self.stream:
                future = self.waiting.pop(outcome.frame_id, None)
                if future is not None and not future.done():
                    future.set_result(outcome)
                else:
                    self.late(outcome.frame_id, outcome)
        except DulyError as error:
            for future in self.waiting.values():
                if not future.done():
                    future.set_exception(error)


class Links:
    """It is made in the event loop; the other methods are for threads."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._links: dict[str, _Link] = {}
        self._opening = 0
        """How many streams are being opened."""

    def open(self, session: str, late: Late) -> StreamTerms:
        """Opens the stream of a rollout. Raises DulyError where it is refused, ValueError where the model gives no plan
        or too many rollouts are open.
        """
        return asyncio.run_coroutine_threadsafe(self._open(session, late), self._loop).result(OPEN_S + ANSWER_S)

    def close(self, session: str) -> None:
        """Ends the stream of a rollout; nothing where there is none."""
        asyncio.run_coroutine_threadsafe(self._close(session), self._loop)

    def ask(self, session: str, payload: Payload, budget_ms: float, sent: Callable[[int], None]) -> Outcome | None:
        """Returns the outcome of an observation, or None where it has none within the budget. `sent`: is told the id of
        its frame, in the event loop. Raises DulyError where the stream has ended, ValueError where the observation is
        not what the model takes.
        """
        asking = asyncio.run_coroutine_threadsafe(self._ask(session, payload, budget_ms, sent), self._loop)
        try:
            return asking.result(budget_ms / 1e3 + ANSWER_S)
        except NoAnswer:
            asking.cancel()
            return None

    async def _open(self, session: str, late: Late) -> StreamTerms:
        if len(self._links) + self._opening >= self._settings.sessions_max:
            now_s = self._loop.time()
            for idle in [key for key, link in self._links.items() if now_s - link.used_s > IDLE_S]:
                await self._close(idle)  # its simulator has gone without a word
        if len(self._links) + self._opening >= self._settings.sessions_max:
            raise ValueError(f"{self._settings.sessions_max} sessions are open already (sessions_max)")
        self._opening += 1
        try:
            stream = await self._open_stream(session)
        finally:
            self._opening -= 1
        self._links[session] = _Link(stream, late)
        return stream.opened

    async def _open_stream(self, session: str) -> Stream:
        stream = self._client.stream(
            self._settings.model,
            budget_ms=STREAM_BUDGET_MS,
            name=f"egodriver {session}"[:100],
            stream_class=self._settings.stream_class,
            backlog="LATEST",
        )
        async with asyncio.timeout(OPEN_S):
            await stream.__aenter__()
        if stream.opened.chunk is None:
            await stream.close()
            raise ValueError(
                f"model {self._settings.model!r} gives no plan: its model.toml should say which output, [chunk]"
            )
        return stream

    async def _close(self, session: str) -> None:
        link = self._links.pop(session, None)
        if link is not None:
            await link.stream.close()
            link.reading.cancel()

    async def _ask(
        self, session: str, payload: Payload, budget_ms: float, sent: Callable[[int], None]
    ) -> Outcome | None:
        link = self._links[session]
        link.used_s = self._loop.time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(budget_ms / 1e3):
                frame_id = await link.stream.send(payload, budget_ms=budget_ms)
                sent(frame_id)
                future: asyncio.Future[Outcome] = self._loop.create_future()
                link.waiting[frame_id] = future
                try:
                    return await future
                finally:
                    link.waiting.pop(frame_id, None)
        return None

    async def end(self) -> None:
        """Ends all streams; in the event loop."""
        for session in list(self._links):
            await self._close(session)
