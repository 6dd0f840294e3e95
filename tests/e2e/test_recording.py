"""What a real server recorded replays on a fresh scheduler."""

import os
import socket
from pathlib import Path

import grpc
import pytest

from duly.app import App
from duly.config import ServerConfig
from duly.start_error import StartError
from duly.v1 import server_pb2, server_pb2_grpc
from duly_sim.simulator.replay import replay
from tests.e2e.serving import serving
from tests.e2e.wire import Wire, frame


async def test_what_a_server_did_replays_bit_for_bit(repository: Path, tmp_path: Path) -> None:
    log = tmp_path / "duly.log"
    async with (
        serving(repository, record=log, flight_folder=tmp_path) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="double") as one,
        Wire(channel, model="sum") as two,
    ):
        await one.send(*(frame(i, [i] * 4, budget_nano=1 + i * 10**6) for i in range(1, 200)))
        await two.send(*(frame(i, [i] * 2) for i in range(1, 50)))
        await one.send(frame(200, [float("nan")] * 4), frame(201, [1] * 3))
        await one.finish()
        await two.finish()
        dumped = await server_pb2_grpc.ServerServiceStub(channel).DumpRecording(server_pb2.DumpRecordingRequest())
    flight = replay(tmp_path / dumped.file_name)
    assert flight.difference is None
    assert flight.frames == 199 + 49 + 1
    replayed = replay(log)
    assert replayed.difference is None
    assert replayed.frames == 199 + 49 + 1, "of frame 201 the scheduler was never told"


async def test_a_recording_that_cannot_be_written_is_told_at_once(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"^cannot record to .*/nowhere/duly.log: No such file or directory$"):
        App(ServerConfig(models=repository, record=tmp_path / "nowhere" / "duly.log"))


async def test_a_pipe_that_nobody_reads_yet_and_a_socket_hold_up_no_start(repository: Path, tmp_path: Path) -> None:
    pipe, place = tmp_path / "pipe", tmp_path / "socket"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        for path, reason in ((pipe, "nobody reads this pipe yet"), (place, "it is a socket, not a file")):
            with pytest.raises(StartError, match=f"^cannot record to {path}: {reason}$"):
                App(ServerConfig(models=repository, record=path))
