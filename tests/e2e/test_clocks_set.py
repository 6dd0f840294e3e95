"""Wall clocks that are set while frames are sent: of the client, of the server, of the host that both run on."""

import time
from types import ModuleType

import numpy as np
import pytest

from duly.app import App
from duly.streams import wall_clock as servers
from duly_client import Client, Status, Stream
from duly_client import wall_clock as clients

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR_NS = 3600 * 10**9
BUDGET_MS = 60_000
"""Much more than a frame takes, and much less than the clocks are set by."""
X = np.zeros(4, np.float32)


class ShiftedTime(ModuleType):
    """The module `time` with a wall clock that can be set."""

    def __init__(self) -> None:
        super().__init__("time")
        self.ahead_ns = 0

    def time_ns(self) -> int:
        return time.time_ns() + self.ahead_ns

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


def pinging(stream: Stream) -> bool:
    """Whether an exchange of time stamps is under way. Where the clocks of both sides are set at that moment, frames of
    the next exchange may be misjudged, because the server cannot know which of its answers the client had got.
    """
    assert stream._connection is not None
    return stream._connection._pings_in_a_row > 0


@pytest.mark.parametrize("whose", [(clients,), (servers,), (clients, servers)], ids=["client", "server", "both"])
@pytest.mark.parametrize("steps_ns", [(HOUR_NS,), (-HOUR_NS,), (-HOUR_NS, -HOUR_NS, 3 * HOUR_NS)])
async def test_no_frame_is_lost(
    shared_server: App, monkeypatch: pytest.MonkeyPatch, whose: tuple[ModuleType, ...], steps_ns: tuple[int, ...]
) -> None:
    clock = ShiftedTime()
    for module in whose:
        monkeypatch.setattr(module, "time", clock)
    async with (
        Client(shared_server.address) as client,
        client.stream("double", budget_ms=BUDGET_MS, backlog="ALL") as stream,
    ):
        outcomes = []
        for step_ns in (0, *steps_ns):
            clock.ahead_ns += step_ns
            for _ in range(4):
                await stream.send(X)
            outcomes += [await anext(stream) for _ in range(4)]
            while pinging(stream):
                await stream.send(X)
                outcomes.append(await anext(stream))
    assert [(outcome.status, outcome.reason) for outcome in outcomes] == [(Status.ON_TIME, "")] * len(outcomes)
    assert all(0 < outcome.latency_ns < BUDGET_MS * 10**6 for outcome in outcomes)
    assert all(outcome.timing.capture_to_receipt_ns < BUDGET_MS * 10**6 for outcome in outcomes if outcome.timing)
