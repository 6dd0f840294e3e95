"""Publisher and subscriber of eclipse-zenoh in an environment of its own, `duly-zenoh` between them, a real server."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duly.v1 import inference_pb2 as pb
from tests import graphs
from tests.e2e.serving import serving
from tests.peers.environments import command_of, line_of, plain, python_of, running

pytestmark = pytest.mark.peers

HERE = Path(__file__).parent
CONFIG = """
[zenoh]
mode = "peer"
listen = ["{endpoint}"]
multicast = false

[[bridge]]
subscribe = "robot/*/joints"
publish = "{{key}}/doubled"
model = "double"
budget_ms = 10000
backlog = "ALL"
keys_max = 2
sample_bytes_max = 1024
idle_s = {idle_s}

[[bridge]]
subscribe = "plain/**"
publish = "outcomes/{{key}}"
errors = "trouble"
model = "double"
budget_ms = 10000
form = "protobuf"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Publisher:
    """What the publisher's process is told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def put(self, key: str, data: bytes, **more: str) -> None:
        assert await self._tell({"key": key, "hex": data.hex(), **more}) == "put"

    async def status(self) -> list[dict[str, Any]]:
        """How the gateway does, as it answers a query."""
        return list(json.loads(await self._tell({"ask": "duly/zenoh/status"})))

    async def _tell(self, what: dict[str, str]) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")
        return await line_of(self.process)


@dataclass
class World:
    endpoint: str
    heard: asyncio.subprocess.Process

    @contextlib.asynccontextmanager
    async def publisher(self, *words: str) -> AsyncIterator[Publisher]:
        async with started("publisher.py", self.endpoint, *words) as process:
            yield Publisher(process)

    async def hear(self) -> tuple[str, dict[str, Any]]:
        """The key and contents of the next sample that the subscriber gets, with its attachment and encoding."""
        sample = json.loads(await asyncio.wait_for(line_of(self.heard), 60))
        data = bytes.fromhex(sample["hex"])
        contents = json.loads(data) if sample["encoding"].startswith("application/json") else {"bytes": data}
        return sample["key"], contents | {"attachment": sample["attachment"], "encoding": sample["encoding"]}


@contextlib.asynccontextmanager
async def started(script: str, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of Zenoh's environment that reads its standard input, once it is ready."""
    process = await asyncio.create_subprocess_exec(
        *(str(python_of("zenoh")), str(HERE / script), *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=plain(),
    )
    try:
        assert await line_of(process) == "ready"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def gateway(folder: Path, address: str, idle_s: float = 60) -> AsyncIterator[World]:
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    (folder / "zenoh.toml").write_text(CONFIG.format(endpoint=endpoint, idle_s=idle_s))
    async with running(*command_of("zenoh"), folder / "zenoh.toml", "--server", address) as process:
        assert (await line_of(process)).startswith("bridging robot/*/joints to double")
        async with started("subscriber.py", endpoint, "**") as heard:
            yield World(endpoint, heard)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return graphs.save(tmp_path / "models", "double", graphs.scaling())


def joints(*numbers: float) -> bytes:
    return np.float32(numbers).tobytes()


async def heard_of(world: World, key: str, within: int = 20) -> dict[str, Any]:
    """The next sample at a key; others are passed over."""
    for _ in range(within):
        at, contents = await world.hear()
        if at == key:
            return contents
    raise AssertionError(f"nothing came at {key}")


async def test_samples_in_shared_memory_become_frames_and_outcomes_samples(models: Path, tmp_path: Path) -> None:
    async with (
        serving(models) as app,
        gateway(tmp_path, app.address) as world,
        world.publisher("shared") as publisher,
    ):
        for nth in range(10):
            for arm in ("left", "right"):
                await publisher.put(f"robot/{arm}/joints", joints(nth, 1, 2, 3), attachment=f"{arm} {nth}")
                told = await heard_of(world, f"robot/{arm}/joints/doubled")
                assert told["status"] == "ON_TIME"
                assert told["outputs"]["y"]["values"] == [2 * nth, 2, 4, 6]
                assert (told["frame_id"], told["attachment"]) == (nth + 1, f"{arm} {nth}")
        (joint, other) = await publisher.status()
    assert (joint["keys"], joint["samples"], joint["ON_TIME"]) == (2, 20, 20)
    assert joint["shared"] == 20, "they came through shared memory"
    assert other["keys"] == 0


async def test_outcomes_can_be_messages_of_the_protocol(models: Path, tmp_path: Path) -> None:
    async with serving(models) as app, gateway(tmp_path, app.address) as world, world.publisher() as publisher:
        frame = pb.Frame()
        frame.tensors.add(name="x", datatype=11, shape=[4], data=joints(1, 2, 3, 4))  # type: ignore[arg-type]
        await publisher.put("plain/a/b", frame.SerializeToString(), encoding="application/protobuf;duly.v1.Frame")
        told = await heard_of(world, "outcomes/plain/a/b")
        await publisher.put("plain/a/b", joints(5, 6, 7, 8), encoding="application/octet-stream;FP32[4]")
        again = await heard_of(world, "outcomes/plain/a/b")
    assert told["encoding"] == "application/protobuf;duly.v1.Outcome"
    for got, expected in ((told, (2, 4, 6, 8)), (again, (10, 12, 14, 16))):
        outcome = pb.Outcome.FromString(got["bytes"])
        assert outcome.status == pb.OUTCOME_STATUS_ON_TIME
        assert outcome.timing.sent_nano > 0
        assert outcome.outputs[0].data == joints(*expected)


async def test_what_is_no_frame_is_told_at_the_errors_key(models: Path, tmp_path: Path) -> None:
    async with serving(models) as app, gateway(tmp_path, app.address) as world, world.publisher() as publisher:
        for data, encoding, words in (
            (b"abc", "zenoh/bytes", "the sample has 3 bytes, FP32[4] has 16"),
            (joints(1, 2), "application/octet-stream;FP32[4]", "the sample has 8 bytes, FP32[4] has 16"),
            (joints(1, 2), "application/octet-stream;FP32[2]", "input 'x': got FP32[2], expected FP32[4]"),
            (joints(1, 2), "application/octet-stream;what", "the sample's schema is 'what'; say a type and a shape"),
            (b"\xff\xd8\xff", "image/jpeg", "the sample is image/jpeg; input 'x' takes FP32[4]"),
            (b"{}", "application/json", "the sample is 'application/json', which is none of"),
            (b"\xff\xff", "application/protobuf;duly.v1.Frame", "the sample is no duly.v1.Frame"),
            (bytes(2000), "zenoh/bytes", "the sample has 2000 bytes, at most 1024 are taken (sample_bytes_max)"),
        ):
            await publisher.put("robot/left/joints", data, encoding=encoding)
            key, told = await world.hear()
            while key == "robot/left/joints":
                key, told = await world.hear()
            assert (key, told["status"]) == ("robot/left/joints/doubled/error", "INVALID")
            assert words in told["reason"]
        await publisher.put("robot/left/joints", joints(np.nan, 0, 0, 0))
        told = await heard_of(world, "robot/left/joints/doubled")
        assert (told["status"], told["outputs"]) == ("INVALID", {})
        for arm in ("right", "middle"):
            await publisher.put(f"robot/{arm}/joints", joints(1, 2, 3, 4))
        told = await heard_of(world, "robot/middle/joints/doubled/error")
        assert told["reason"] == "2 keys have a stream already (keys_max)"
        await publisher.put("robot/left/joints", joints(1, 1, 1, 1))
        assert (await heard_of(world, "robot/left/joints/doubled"))["status"] == "ON_TIME", "nothing else was harmed"


async def test_a_publisher_that_vanishes_leaves_no_stream_and_may_come_again(models: Path, tmp_path: Path) -> None:
    async with serving(models) as app, gateway(tmp_path, app.address, idle_s=0.5) as world:
        for _ in range(2):
            async with world.publisher() as publisher:
                await publisher.put("robot/left/joints", joints(1, 2, 3, 4))
                told = await heard_of(world, "robot/left/joints/doubled")
                assert (told["status"], told["frame_id"]) == ("ON_TIME", 1), "each time a stream of its own"
            # the process was killed
            async with world.publisher() as watcher:
                while (await watcher.status())[0]["keys"]:
                    await asyncio.sleep(0.05)


async def test_a_server_that_starts_again_is_found_again(models: Path, tmp_path: Path) -> None:
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(serving(models, listen=f"127.0.0.1:{port}"))
        world = await stack.enter_async_context(gateway(tmp_path, first.address))
        publisher = await stack.enter_async_context(world.publisher())
        await publisher.put("robot/left/joints", joints(1, 2, 3, 4))
        assert (await heard_of(world, "robot/left/joints/doubled"))["status"] == "ON_TIME"
        await first.close()
        await stack.enter_async_context(serving(models, listen=f"127.0.0.1:{port}"))
        statuses = []
        while not statuses or statuses[-1] != "ON_TIME":
            await publisher.put("robot/left/joints", joints(2, 2, 3, 4))
            key = "robot/left/joints"
            while key == "robot/left/joints":
                key, told = await world.hear()
            statuses.append(told["status"])
            assert len(statuses) < 200
    assert set(statuses) <= {"ON_TIME", "CANCELLED", "SUPERSEDED"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('subscribe = "robot/**"', "publish: what is published at '{key}/outcome' would come in again by 'robot/**'"),
        ('subscribe = "robot//camera"', "subscribe: 'robot//camera' is no key expression"),
        ('subscribe = "a"\npublish = "b/*"', "publish: 'b/*' has a wildcard; say {key} for the key of the sample"),
        ('subscribe = "a"\nerrors = "a"', "errors: what is published at 'a' would come in again by 'a'"),
    ],
)
async def test_settings_that_would_go_round_are_refused(tmp_path: Path, lines: str, words: str) -> None:
    config = tmp_path / "zenoh.toml"
    config.write_text(f'[zenoh]\nmulticast = false\n[[bridge]]\nmodel = "m"\n{lines}\n')
    async with running(*command_of("zenoh"), config) as process:
        _, told = await process.communicate()
    assert process.returncode == 2
    assert words in " ".join(told.decode().split())
