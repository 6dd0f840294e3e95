"""A worker whose answers can't be trusted: its batch is FAILED, it is replaced, and its lane goes on."""

import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from duly.app import App
from duly.worker import channel
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import FAILED, INVALID, ON_TIME, Wire, array, frame
from tests.lane import lane
from tests.runtime.scripted import Change, but


class Tampered:
    """A worker's socket whose next answer is changed on its way."""

    def __init__(self, real: socket.socket, change: Change) -> None:
        self._real = real
        self._change: Change | None = change

    def recv_into(self, buffer: memoryview) -> int:
        length = self._real.recv_into(buffer)
        if length and self._change is not None:
            message = self._change(channel.decode_done(bytes(buffer[:length]), 1))
            self._change = None
            length = len(message)
            buffer[:length] = message
        return length

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def tamper(app: App, change: Change, model: str = "double/1") -> None:
    worker = app.catalogue.find(*model.split("/")).workers[lane()]
    worker._socket = Tampered(worker._socket, change)  # type: ignore[assignment]


def ref(offset: int = 0, length: int = 16, encoding: int = 0, shape: tuple[int, ...] = (4,)) -> Change:
    return but(frames=[(channel.OK, [(offset, length, encoding, shape)])])


LIES: dict[str, Change] = {
    "a garbage byte": lambda done: b"\xff",
    "an unknown kind": lambda done: bytes([77]) + bytes(channel.encode_done(done))[1:],
    "half a message": lambda done: channel.encode_done(done)[:-9],
    "more than a message": lambda done: channel.encode_done(done) + b"{}",
    "another batch": but(batch_id=99),
    "another batch that failed": lambda done: channel.encode_text(channel.FAILED, {"reason": "?"}, 99),
    "a failure without a reason": lambda done: channel.encode_text(channel.FAILED, {"why": 1}, done.batch_id),
    "another slot": lambda done: but(slot=1 - done.slot)(done),
    "a slot that is not there": but(slot=200),
    "no frames": but(frames=[]),
    "a frame too many": lambda done: but(frames=done.frames * 2)(done),
    "a status that is none": but(frames=[(9, [])]),
    "a failed frame without a reason": but(frames=[(channel.INVALID, [])]),
    "a reason for a frame that ran": but(reasons={0: "?"}),
    "a reason for a frame that is not there": but(reasons={7: "?"}),
    "an offset out of range": ref(offset=1 << 40),
    "an offset in the slot but not in the frame's place": ref(offset=2048),
    "fewer bytes than the shape says": ref(length=12),
    "a shape of more than the bytes": ref(shape=(5,)),
    "a shape below zero": ref(length=16, shape=(-2, -2)),
    "finished before it started": lambda done: but(started_ns=done.finished_ns + 1)(done),
    "finished in the future": lambda done: but(finished_ns=done.finished_ns + 10**15)(done),
    "started before it was asked": but(started_ns=-(2**63)),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_worker_that_lies_fails_its_batch_and_is_replaced(
    server: App, channel: grpc.aio.Channel, lie: str
) -> None:
    async with Wire(channel, model="double") as wire, Wire(channel, model="sum") as other:
        assert (await wire.ask(frame(1))).status == ON_TIME
        tamper(server, LIES[lie])
        outcome = await wire.ask(frame(2))
        assert (outcome.status, outcome.reason) == (FAILED, "the model's worker gave an answer that makes no sense")
        assert (await other.ask(frame(1, [1, 1]))).status == ON_TIME
        assert (await wire.ask(frame(3))).status == ON_TIME
    assert not server.driver.held


async def test_a_version_that_comes_back_with_other_inputs_leaves_its_lane_alive(tmp_path: Path) -> None:
    """A stream that states the version was open all the while, and its frames no longer fit."""
    root = tmp_path / "models"
    graphs.save(root, "double", graphs.scaling(width=2048), toml="batch_sizes = [1]\n")
    graphs.save(root, "other", graphs.scaling())
    async with (
        serving(root) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="double", version="1") as wire,
        Wire(channel, model="other") as other,
    ):
        assert (await wire.ask(frame(1, [1.0] * 2048))).status == ON_TIME
        await app.host.unload("double", "1")
        graphs.save(root, "double", graphs.scaling(width=4))
        await app.host.load("double", "1")
        assert (await wire.ask(frame(2, [1.0] * 2048))).status in (FAILED, INVALID)
        assert (await other.ask(frame(1))).status == ON_TIME
        async with Wire(channel, model="double") as fresh:
            outcome = await fresh.ask(frame(1))
            assert outcome.status == ON_TIME
            assert array(outcome).tolist() == [2, 4, 6, 8]
