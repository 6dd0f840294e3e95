"""The law over KServe's protocol with real calls and workers: whatever clients do, every request gets one reply or its
call ends with a status, every frame is counted once, and nothing is left. `tests/rpc/kserve` has operators, too.
"""

import asyncio
import copy
import itertools
from random import Random

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duly.app import App
from duly.rpc.kserve import messages as ks
from tests.e2e.kserve_wire import StreamWire, infer, request, until

ACTS = st.lists(
    st.sampled_from(["send"] * 6 + ["bad", "sequence", "sequence", "infer", "infer", "cancel", "wait", "open", "go"]),
    min_size=3,
    max_size=25,
)


class _Client:
    """What one client has sent over its streams and unary calls."""

    def __init__(self, channel: grpc.aio.Channel, seed: int) -> None:
        self.channel = channel
        self.chance = Random(seed)
        self.ids = (f"r{number}" for number in itertools.count())
        self.streams: list[tuple[StreamWire, list[str]]] = []
        self.unary: list[tuple[str, grpc.aio.UnaryUnaryCall[object, ks.ModelInferResponse]]] = []

    def request(self, kind: str) -> ks.ModelInferRequest:
        request_id, chance = next(self.ids), self.chance
        budget = chance.choice([{}, {"timeout": 1}, {"timeout": 1_000_000}, {"timeout": 0}])
        if kind == "bad":
            return request(chance.choice(["double", "nothing"]), [[1.0] * 5], request_id, **budget)
        if kind == "sequence":
            flags = {"sequence_start": chance.random() < 0.5, "sequence_end": chance.random() < 0.2}
            return request("sum", [[1, 2]], request_id, sequence_id=chance.randint(1, 2), **flags, **budget)
        rows = [[1.0, 2.0, 3.0, 4.0]] * chance.choice([1, 1, 1, 3])
        backlog = {"backlog": chance.choice(["ALL", "LATEST"])} if len(rows) == 1 else {}
        return request("double", rows, request_id, **budget, **backlog)

    async def act(self, act: str) -> None:
        if act == "open" or not self.streams:
            self.streams.append((StreamWire(self.channel), []))
        wire, sent = self.chance.choice(self.streams)
        if act in ("send", "bad", "sequence"):
            asked = self.request(act)
            sent.append(asked.id)
            await wire.send(asked)
        elif act == "infer":
            asked = self.request(self.chance.choice(["send", "bad", "sequence"]))
            self.unary.append((asked.id, infer(self.channel, asked)))
        elif act == "cancel" and self.unary:
            self.chance.choice(self.unary)[1].cancel()
        elif act == "wait" and sent:
            await wire.read_until(sent[-1])
        elif act == "go":
            self.streams.remove((wire, sent))
            wire.call.cancel()

    async def check(self) -> None:
        """Half-closes, reads everything, and raises AssertionError where a request has not exactly one reply."""
        for wire, sent in self.streams:
            await wire.finish()
            assert (await wire.status())[0] is grpc.StatusCode.OK
            assert {name: len(replies) for name, replies in wire.replies.items()} == dict.fromkeys(sent, 1)
        for request_id, call in self.unary:
            code = await call.code()
            assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), await call.details()
            if code is grpc.StatusCode.OK:
                assert (await call).id == request_id


def _counts(app: App) -> tuple[int, int]:
    """Returns (frames that were taken, outcomes that were counted)."""
    return next(copy.copy(app.driver.seqs)), sum(frames for *_, frames in app.metrics.counts())


def _nothing_left(app: App) -> bool:
    assert app.kserve is not None
    memory = app.streams.host.memory
    counts = (app.kserve.sequences, len(app.streams), len(app.driver.held), app.driver.held.bytes)
    return not any((*counts, memory.outcomes, memory.result_bytes))


@given(acts=ACTS, seed=st.integers(0, 1 << 32))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_law_over_kserve(
    wire_loop: "tuple[asyncio.Runner, App]", acts: list[str], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, app = wire_loop
    monkeypatch.setattr("duly.rpc.kserve.sequences.SEQUENCE_IDLE_NS_MAX", 0)  # those that never end do, once idle

    async def story() -> None:
        before = _counts(app)
        async with grpc.aio.insecure_channel(app.address) as channel:
            client = _Client(channel, seed)
            for act in acts:
                await client.act(act)
            await client.check()
            assert app.kserve is not None
            app.kserve.watch()
            await until(lambda: _nothing_left(app))
            taken, counted = (now - then for now, then in zip(_counts(app), before, strict=True))
            assert taken == counted

    runner.run(story())
