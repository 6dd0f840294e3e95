"""Any order of what clients, workers and operators do to calls of KServe's protocol, drawn from a seed: every request
gets exactly one reply or its call ends with a status, every frame is counted once, and nothing is left.
"""

import asyncio
from collections import Counter
from random import Random
from typing import Any

import grpc
import pytest

from duly.core.events import DrainRequested, TimerFired
from duly.rpc.kserve import messages as ks
from duly.rpc.kserve import sequences, stream_call
from tests.rpc.kserve.calls import MS, Call, Served, check_response, read_reply
from tests.rpc.kserve.drawn_requests import MODELS, Draw, drawn
from tests.runtime.fake_lane import FakeLane

ACTS = 120
CALLS_MAX = 6


class _Stream:
    """A call of ModelStreamInfer, and what its client knows of it."""

    def __init__(self, served: Served, connection: str) -> None:
        self.call = Call(connection)
        self.handler = served.stream(self.call)
        self.sent: list[str] = []
        self.half_closed = False

    def check(self) -> None:
        replies = [read_reply(message).infer_response.id for message in self.call.replies]
        times = Counter(replies)
        assert not [each for each, count in times.items() if count > 1], f"answered twice: {times}"
        assert set(replies) <= set(self.sent), "what nobody has asked was answered"
        if self.call.over:
            return
        status = self.call.status
        if status is None:
            assert sorted(replies) == sorted(self.sent), f"without a reply: {set(self.sent) - set(replies)}"
            return
        code, text = status
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED), status
        if "stopped" in text:  # what it had read before the end was answered: one more message may have been on its way
            read = len(self.sent) - self.call.unread
            assert len(replies) >= read - 1, f"{len(replies)} replies to {read} requests at the drain"


class World:
    def __init__(self, seed: int, patch: pytest.MonkeyPatch) -> None:
        self.chance = Random(seed)
        self.served = Served()
        self.patch = patch
        self.streams: list[_Stream] = []
        self.unary: list[tuple[str, Call, asyncio.Task[Any]]] = []
        self.requests = 0
        self.versions = Counter(dict.fromkeys(MODELS, 1))
        self.log: list[str] = []
        self.did: Counter[str] = Counter()

    async def run(self) -> None:
        for _ in range(ACTS):
            act = self.chance.choice(_ACTS)
            self.log.append(act.__name__)
            self.did[act.__name__] += 1
            act(self)
            for _ in range(self.chance.choice((0, 0, 1, 3))):
                await asyncio.sleep(0)
        await self._end()

    async def _end(self) -> None:
        """Everybody reads. Half of the time the server drains, and else the clients half-close."""
        served = self.served
        for stream in self.streams:
            stream.call.reads.set()
        draining = self.chance.random() < 0.5
        if draining:
            served.streams.drain()
            served.bench.driver.submit(DrainRequested(served.bench.clock.now_ns + 50 * MS))
            for _ in range(300):
                await served.turn()
            assert not served.bench.driver.held
            served.streams.end_all()
            served.service.end_all()
        else:
            for stream in self.streams:
                self._half_close(stream)
        handlers = [stream.handler for stream in self.streams] + [handler for _, _, handler in self.unary]
        await served.until_over(*handlers)
        for stream in self.streams:
            stream.check()
        for request_id, call, handler in self.unary:
            if not call.over and call.status is None:
                response = ks.ModelInferResponse.FromString(handler.result())
                check_response(response)
                assert response.id == request_id
        await served.nothing_is_left()

    # ---- clients ----

    def _request(self) -> tuple[str, bytes]:
        self.requests += 1
        request = ks.ModelInferRequest.FromString(drawn(Draw(self.chance.randbytes(60)), whole=True))
        request.id = f"r{self.requests}"
        return request.id, request.SerializeToString()

    def open_stream(self) -> None:
        if sum(not stream.handler.done() for stream in self.streams) < CALLS_MAX:
            self.streams.append(_Stream(self.served, self.chance.choice(("ipv4:10.0.0.1:1", "ipv4:10.0.0.2:1"))))

    def _stream(self) -> _Stream | None:
        open_ = [stream for stream in self.streams if not stream.handler.done() and not stream.call.over]
        return self.chance.choice(open_) if open_ else None

    def send(self) -> None:
        stream = self._stream()
        if stream is None or stream.half_closed:
            return
        for _ in range(self.chance.randint(1, 5)):
            request_id, message = self._request()
            stream.sent.append(request_id)
            stream.call.send(message)

    def infer(self) -> None:
        request_id, message = self._request()
        call = Call("ipv4:10.0.0.1:2", seconds=self.chance.choice((None, 5.0)))
        self.unary.append((request_id, call, self.served.infer(message, call)))

    def cancel_infer(self) -> None:
        under_way = [(call, handler) for _, call, handler in self.unary if not handler.done()]
        if under_way:
            call, handler = self.chance.choice(under_way)
            call.go(handler)

    def half_close(self) -> None:
        if stream := self._stream():
            self._half_close(stream)

    def _half_close(self, stream: _Stream) -> None:
        if not stream.half_closed:
            stream.half_closed = True
            stream.call.half_close()

    def go(self) -> None:
        if (stream := self._stream()) and self.chance.random() < 0.5:
            stream.call.go(stream.handler)

    def stop_reading(self) -> None:
        if stream := self._stream():
            stream.call.reads.clear()

    def read_again(self) -> None:
        for stream in self.streams:
            stream.call.reads.set()

    # ---- workers, operators, time ----

    def _lane(self) -> FakeLane:
        return self.chance.choice(self.served.lanes[1:])

    def worker_answers(self) -> None:
        for lane in self.served.lanes:
            if lane.running:
                lane.end(self.served.bench.driver, invalid={0: "no"} if self.chance.random() < 0.1 else {})

    def batch_fails(self) -> None:
        lane = self._lane()
        if lane.running:
            action, _ = lane.running.pop()
            self.served.bench.driver.batch_ended(action.batch_id, "the device reset")

    def worker_dies(self) -> None:
        lane = self._lane()
        lane.running.clear()
        self.served.lose_lane(lane, "its worker process ended")
        self.served.add_lane(*lane.model.split("/"))

    def version_changes(self) -> None:
        name = self.chance.choice(tuple(MODELS))
        self.versions[name] += 1
        self.served.load(name, str(self.versions[name]))

    def unload(self) -> None:
        """A model goes, all versions of it, and comes again under the same number."""
        name = self.chance.choice(tuple(MODELS))
        catalogue = self.served.bench.catalogue
        for loaded in catalogue.versions(name):
            catalogue.remove(loaded)
        catalogue.notify()
        for lane in [lane for lane in self.served.lanes if lane.model.startswith(f"{name}/")]:
            lane.running.clear()
            self.served.lose_lane(lane, "it was unloaded")
        self.served.load(name, str(self.versions[name]))

    def time_passes(self) -> None:
        self.served.bench.clock.now_ns += self.chance.choice((0, MS, 5 * MS, 60 * MS))

    def turns(self) -> None:
        """What is due happens."""
        driver = self.served.bench.driver
        wake_ns = driver.scheduler.next_wake_ns()
        if wake_ns is not None and wake_ns <= self.served.bench.clock.now_ns:
            driver.submit(TimerFired())

    def watch(self) -> None:
        """Sequences are idle for long."""
        for module in (sequences, stream_call):
            self.patch.setattr(module, "SEQUENCE_IDLE_NS_MAX", self.chance.choice((0, 60_000 * MS)))
        self.served.service.watch()


_ACTS = (
    *[World.open_stream] * 3,
    *[World.send] * 8,
    *[World.infer] * 4,
    *[World.worker_answers] * 6,
    *[World.turns] * 2,
    *[World.time_passes] * 2,
    *[World.cancel_infer] * 2,
    World.half_close,
    World.go,
    World.stop_reading,
    *[World.read_again] * 2,
    World.batch_fails,
    World.worker_dies,
    World.version_changes,
    World.unload,
    World.watch,
)
