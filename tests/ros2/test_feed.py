"""The feed of a stream against a real server, without ROS: every message that came has exactly one answer."""

import asyncio
import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duly_client import Advice, Client, Outcome, Status
from duly_ros2.answers import Answer, Received
from duly_ros2.feed import Feed
from duly_ros2.link import HANDED_MAX, Link
from duly_ros2.settings import StreamSettings, settings_of
from tests import graphs
from tests.e2e.serving import serving
from tests.ros2.cdr import Writer, image

PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


class Heard:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self._new = asyncio.Event()
        self.answers: list[Answer] = []
        self.outputs: list[np.ndarray] = []

    def answer(self, answer: Answer) -> None:
        self.answers.append(answer)
        self._new.set()

    def result(self, stream: StreamSettings, first: Received, outcome: Outcome, labels: dict[str, Any]) -> None:
        self.outputs.append(outcome.outputs["y"])

    def advise(self, stream: StreamSettings, advice: Advice) -> None:
        raise AssertionError(advice)

    async def count(self, number: int) -> list[Answer]:
        async with asyncio.timeout(30):
            while len(self.answers) < number:
                self._new.clear()
                await self._new.wait()
        return self.answers


def feed_of(client: Client, heard: Heard, **stream: Any) -> Feed:
    told = {"type": "Image", "topic": "/camera", "budget_ms": 20_000, "qos": {"history": "keep_all"}} | stream
    (settings,) = settings_of({"streams": {"front": told}}).streams
    return Feed(settings, client, heard, 50_000_000, lambda text: None)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    graphs.save(root, "copy", graphs.copying(("N", "H", "W", 3), graphs.UINT8))
    graphs.save(root, "double", graphs.doubling(("N", 3)))
    return root


@pytest.mark.parametrize("local", [False, True], ids=["grpc", "local"])
async def test_pictures_of_all_kinds_reach_the_model_as_they_are(models: Path, tmp_path: Path, local: bool) -> None:
    heard = Heard()
    path = f"{tmp_path}/d.sock" if local else None
    async with serving(models, local=path) as app, Client(app.address) as client:
        feed = feed_of(client, heard, model="copy")
        await feed.open()
        padded = b"".join(row.tobytes() + b"\xff" for row in PIXELS)
        for encoding, step, data in (
            ("rgb8", 9, PIXELS.tobytes()),
            ("bgr8", 9, PIXELS.tobytes()),
            ("rgb8", 10, padded),
        ):
            feed.take(0, image(encoding, 3, 2, step, data), 0, 1_500_000_000)
        answers = await heard.count(3)
        assert [answer.status for answer in answers] == [Status.ON_TIME] * 3
        for output, want in zip(heard.outputs, (PIXELS, PIXELS[:, :, ::-1], PIXELS), strict=True):
            np.testing.assert_array_equal(output, want)
        assert {(answer.frame_id, answer.stamp_ns) for answer in answers} == {("cam", 1_500_000_000)}
        await feed.close()


async def test_a_stamp_of_the_future_counts_from_receipt_and_one_of_the_past_from_then(models: Path) -> None:
    heard = Heard()
    async with serving(models) as app, Client(app.address) as client:
        feed = feed_of(client, heard, model="copy")
        await feed.open()
        message = image("rgb8", 3, 2, 9, PIXELS.tobytes())
        for ahead_ns in (3_600_000_000_000, -15_000_000_000, -30_000_000_000):
            feed.take(0, message, 0, 1_500_000_000 - ahead_ns)
        answers = await heard.count(3)
        by_latency = sorted((answer.latency_ns, answer.status) for answer in answers)
        assert 0 <= by_latency[0][0] < 15e9, "not an hour ahead"
        assert 15e9 <= by_latency[1][0] < 30e9
        assert by_latency[2][0] >= 30e9
        assert by_latency[2][1] is Status.EXPIRED
        assert "in the future" in feed.report.diagnose(feed.clock, 0).message
        await feed.close()


@pytest.mark.parametrize("stamp_ns", [-5_000_000_000, 1, 2**31 * 10**9 - 1])
async def test_any_stamp_is_answered(models: Path, stamp_ns: int) -> None:
    heard = Heard()
    message = Writer().header(stamp_ns).numbers("Bfffff", 1, 0, 0, 0, 3.5, 0).message
    graphs.save(models, "distance", graphs.doubling(("N", 1)))
    async with serving(models) as app, Client(app.address) as client:
        feed = feed_of(client, heard, model="distance", type="Range")
        await feed.open()
        feed.take(0, message, 0, time.time_ns())
        (answer,) = await heard.count(1)
        assert (answer.stamp_ns, answer.status) == (stamp_ns, Status.ON_TIME if stamp_ns > 1 else Status.EXPIRED)
        told = feed.report.diagnose(feed.clock, time.monotonic_ns()).message
        assert ("in the future" if stamp_ns > 1 else "s old; of recordings state stamps: receipt") in told
        await feed.close()


async def test_what_is_no_frame_is_invalid_and_what_came_before_the_end_is_answered(models: Path) -> None:
    heard = Heard()
    async with serving(models) as app, Client(app.address) as client:
        feed = feed_of(client, heard, model="double", type="Float32MultiArray")
        feed.take(0, b"", 0, 0)
        await feed.open()
        for count in (3, 4):
            message = Writer().numbers("II", 0, 0).sequence("f", range(count)).message
            feed.take(0, message, 0, 0)
        await heard.count(3)
        feed.take(0, message, 0, 0)
        await feed.stop("deactivated")
        feed.take(0, message, 0, 0)
        answers = await heard.count(5)
        found = sorted((answer.status.name, answer.reason.split(";")[0]) for answer in answers)
        assert [name for name, _ in found] == ["CANCELLED", "INVALID", "INVALID", "INVALID", "ON_TIME"]
        assert found[0][1] == "deactivated"
        assert any("got FP32[4], expected FP32[3]" in reason for _, reason in found)
        feed.resume()
        feed.take(0, Writer().numbers("II", 0, 0).sequence("f", range(3)).message, 0, 0)
        assert (await heard.count(6))[-1].status is Status.ON_TIME
        await feed.close()


async def test_a_stream_that_a_server_refuses_for_good_is_opened_again_later(models: Path, tmp_path: Path) -> None:
    heard = Heard()
    other = graphs.save(tmp_path / "other", "other", graphs.doubling(("N", 3)))
    message = Writer().numbers("II", 0, 0).sequence("f", range(3)).message

    async def until(feed: Feed, status: Status, reason: str) -> None:
        async with asyncio.timeout(60):
            while not heard.answers or heard.answers[-1].status is not status or reason not in heard.answers[-1].reason:
                sent = len(heard.answers) + 1
                feed.take(0, message, 0, 0)
                await heard.count(sent)
                await asyncio.sleep(0.01)

    async with contextlib.AsyncExitStack() as stack:
        async with serving(models) as app:
            address = app.address
            client = await stack.enter_async_context(Client(address, transport="grpc"))
            feed = feed_of(client, heard, model="double", type="Float32MultiArray")
            await feed.open()
            await until(feed, Status.ON_TIME, "")
        async with serving(other, listen=address):
            await until(feed, Status.CANCELLED, "the stream is not open: ")
            await until(feed, Status.CANCELLED, "double")
        async with serving(models, listen=address):
            await until(feed, Status.ON_TIME, "")
            await feed.close()


async def test_settings_that_do_not_fit_the_model_are_named(models: Path) -> None:
    async with serving(models) as app, Client(app.address, open_timeout_s=2) as client:
        inputs = {"a": {"topic": "/a", "type": "Imu"}, "b": {"topic": "/b", "type": "Imu"}}
        (settings,) = settings_of({"streams": {"s": {"model": "double", "inputs": inputs}}}).streams
        feed = Feed(settings, client, Heard(), 0, lambda text: None)
        with pytest.raises(ValueError, match="inputs: are a, b; the model takes x"):
            await feed.open()


async def test_messages_beyond_those_that_may_be_handed_over_are_answered(models: Path) -> None:
    """The thread of the streams stands still; the node's hands over more than may wait."""
    heard = Heard()
    async with serving(models) as app:
        told = {"type": "Image", "topic": "/camera", "model": "copy", "budget_ms": 20_000}
        settings = settings_of({"server": app.address, "streams": {"front": told}})
        link = await asyncio.to_thread(Link, settings, heard, lambda text: None)
        (feed,) = link.feeds
        stands, goes_on = threading.Event(), threading.Event()
        link.do(lambda: (stands.set(), goes_on.wait()))
        message = image("rgb8", 3, 2, 9, PIXELS.tobytes())

        def hand_over() -> None:
            stands.wait()
            for _ in range(HANDED_MAX + 2):
                link.take(feed, 0, message, 0, time.time_ns())
            goes_on.set()

        await asyncio.to_thread(hand_over)
        await asyncio.to_thread(link.stop, "the test is over")
        await asyncio.to_thread(link.close)
    shed = [answer for answer in heard.answers if answer.status is Status.SHED]
    assert len(heard.answers) == HANDED_MAX + 2
    assert [(answer.reason, answer.stamp_ns, answer.frame_id) for answer in shed] == [
        ("the node is too slow", 1_500_000_000, "cam")
    ] * 2
