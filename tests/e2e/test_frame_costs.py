"""What a frame costs is bounded, and results are right: large pictures, open sizes, outputs that are no numbers.

Real servers, workers and streams; no test depends on how fast they are.
"""

import struct
import zlib
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
from onnx import helper

from duly.app import App
from duly.runtime.catalogue import LoadedVersion
from duly.runtime.frame_costs import SizeCosts
from duly.runtime.held_frames import InputData
from duly_client import Client, DulyError
from tests import graphs
from tests.e2e.serving import serving
from tests.e2e.wire import FAILED, INVALID, ON_TIME

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

CAMERA = """default_budget_ms = 60000
batch_sizes = [1]
[[input]]
name = "x"
encodings = ["JPEG", "PNG"]
preprocess = [{ op = "resize", width = 8, height = 8 }]
"""
SCORES = 'labels = "names.txt"\ndefault_budget_ms = 60000\nbatch_sizes = [1, 2]\n'


def png(width: int, height: int, *, before: bytes = b"", interlaced: int = 0) -> bytes:
    """A black gray PNG, as a client would write it that wants it small; `before`: chunks before the pixels."""
    packed, row = zlib.compressobj(9), bytes(1 + width)
    data = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header says more than there is."""
    whole = png(30, 20)
    head = chunk(b"IHDR", struct.pack(">II", width, height) + whole[24:29])
    return whole[:8] + head + whole[33:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def products() -> object:
    """y[N] = the largest product of two elements of x[N,L]: takes the square of its input in memory and time."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["row"]),
        helper.make_node("Unsqueeze", ["x", "two"], ["column"]),
        helper.make_node("Mul", ["row", "column"], ["products"]),
        helper.make_node("ReduceMax", ["products"], ["y"], axes=[1, 2], keepdims=0),
    ]
    constants = {"one": np.int64([1]), "two": np.int64([2])}
    return graphs.model(nodes, [graphs.value("x", ["N", "L"])], [graphs.value("y", ["N"])], constants)


def logarithm() -> object:
    """y = log(x): NaN below zero."""
    node = helper.make_node("Log", ["x"], ["y"])
    return graphs.model([node], [graphs.value("x", ["N", 2])], [graphs.value("y", ["N", 2])])


def broken() -> object:
    """y = x + NaN: weights that training has spoilt."""
    node = helper.make_node("Add", ["x", "w"], ["y"])
    weights = {"w": np.float32([np.nan, 0])}
    return graphs.model([node], [graphs.value("x", ["N", 2])], [graphs.value("y", ["N", 2])], weights)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    root = tmp_path_factory.mktemp("costs")
    graphs.save(root, "camera", graphs.copying(("N", 8, 8, 3), graphs.UINT8), CAMERA)
    graphs.save(root, "products", products(), "default_budget_ms = 60000\nbatch_sizes = [1]\n")  # type: ignore[arg-type]
    graphs.save(root, "total", graphs.summing(), "output_finite = true\ndefault_budget_ms = 60000\n" + graphs.SUMMING)
    graphs.save(root, "voice", graphs.copying(("N", 160)), '[[input]]\nname = "x"\nencodings = ["PCM_S16LE"]\n')
    for name, model in {"log": logarithm(), "broken": broken()}.items():
        graphs.save(root, name, model, SCORES)  # type: ignore[arg-type]
        (root / name / "names.txt").write_text("no\nyes\n")
    graphs.save(root, "plain", logarithm(), "default_budget_ms = 60000\n")  # type: ignore[arg-type]
    async with serving(root) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: App) -> AsyncIterator[Client]:
    async with Client(server.address) as client:
        yield client


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (claiming(9000, 7000), "the PNG has 9000 x 7000 pixels, at most 12,582,912 are decoded"),
        (claiming(1, 13_000_000), "the PNG has 1 x 13000000 pixels, at most 12,582,912 are decoded"),
        (claiming(4000, 4000)[:60], "the PNG has 4000 x 4000 pixels, at most 12,582,912 are decoded"),
        (png(3, 3)[:30], "the PNG of 30 bytes is damaged or cut off"),
        (b"\xff\xd8\xff\xe0" + bytes(400), "the JPEG of 404 bytes is damaged or cut off"),
        (claiming(40, 20), "is damaged or cut off"),
    ],
    ids=["many pixels", "one column", "cut off and many", "no header", "empty segments", "a header that lies"],
)
async def test_a_picture_that_costs_too_much_or_is_none_is_invalid(client: Client, data: bytes, reason: str) -> None:
    outcome = await client.infer("camera", data, encoding="JPEG" if data[:1] == b"\xff" else "PNG")
    assert (outcome.status, reason in outcome.reason) == (INVALID, True), outcome.reason


async def test_large_pictures_that_are_allowed_are_served_and_teach_what_they_take(server: App, client: Client) -> None:
    costs = server.driver.costs["camera/1"]
    work = costs._read[2].usual_size  # PNG
    assert costs._read[2].beyond_ns(work) == 0
    for data in (png(2400, 2000), png(2400, 2000, interlaced=0, before=chunk(b"zTXt", b"a\0\0" + bombed()) * 40)):
        outcome = await client.infer("camera", data, encoding="PNG")
        assert outcome.status == ON_TIME, outcome.reason
    learnt = costs._read[2]
    assert max(learnt._steps) >= max(4 * np.log2(2400 * 2000) - 1, 0)
    assert learnt.beyond_ns(2400 * 2000) > 0


async def test_a_size_that_never_ran_is_tried_however_long_it_is_guessed_to_take(
    server: App, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = server.driver.costs["products/1"]
    assert costs._graph is not None
    measured = SizeCosts([(costs._graph.usual_size, 1_000_000_000)], 2.0, 1.0)  # by a warm-up beside much other load
    monkeypatch.setattr(costs, "_graph", measured)
    small, large = np.full(64, 3, np.float32), np.full(1000, 3, np.float32)
    assert (await client.infer("products", small)).status == ON_TIME  # so that its lane has not been idle for long
    assert costs.extra_ns([InputData(0, large.shape, large.tobytes())])[0] > 200_000_000_000
    for _ in range(2):
        outcome = await client.infer("products", large, budget_ms=60_000)
        assert (outcome.status, float(outcome.outputs["y"])) == (ON_TIME, 9.0), outcome.reason
    assert not measured.is_guess(large.nbytes)


def version_of(server: App, key: str) -> LoadedVersion:
    return next(loaded for loaded in server.catalogue.all_versions() if loaded.key == key)


def bombed() -> bytes:
    """Text that inflates to a thousand times its size."""
    return zlib.compress(bytes(4 << 20), 9)


async def test_sound_of_another_length_never_reaches_a_worker(client: Client) -> None:
    outcome = await client.infer("voice", b"\1\0" * 161, encoding="PCM_S16LE")
    assert (outcome.status, outcome.reason) == (
        INVALID,
        "input 'x': 322 bytes, 160 samples of PCM_S16LE take 320",
    )


async def test_a_small_input_that_takes_gigabytes_fails_alone(server: App, client: Client) -> None:
    (worker,) = version_of(server, "products/1").workers.values()
    pid = worker.pid
    outcome = await client.infer("products", np.full(30_000, 2, np.float32), budget_ms=600_000)
    assert outcome.status == FAILED, outcome.reason
    outcome = await client.infer("products", np.full(300, 3, np.float32))
    assert (outcome.status, float(outcome.outputs["y"])) == (ON_TIME, 9.0), outcome.reason
    assert worker.pid == pid
    assert not worker.ended


async def test_numbers_that_are_none_are_no_results_of_a_classifier(client: Client) -> None:
    outcome = await client.infer("log", np.float32([1, -1]))
    assert outcome.status == FAILED
    assert outcome.reason == "output 'y': an element is NaN or infinite (output_finite in model.toml)"
    assert (await client.infer("log", np.float32([1, 1]))).status == ON_TIME
    assert (await client.infer("plain", np.float32([1, -1]))).status == ON_TIME  # nothing says what it gives


async def test_what_clients_send_fails_no_version(server: App, client: Client) -> None:
    """However many frames have no finite result: the worker's own frame has one."""
    for _ in range(20):
        assert (await client.infer("log", np.float32([1, -1]))).status == FAILED
    assert (await client.infer("log", np.float32([1, 1]))).status == ON_TIME
    assert not version_of(server, "log/1").hollow


async def test_a_version_that_gives_nothing_finite_is_failed_after_one_replacement(server: App, client: Client) -> None:
    version = version_of(server, "broken/1")
    for _ in range(400):
        try:
            outcome = await client.infer("broken", np.float32([1, 1]))
        except DulyError:
            break  # it is not served any more
        assert outcome.status == FAILED, outcome
        if "two workers in a row" in version.error:
            break
    assert "two workers in a row gave nothing but NaN and infinities" in version.error
    assert not version.workers


async def test_a_state_that_is_no_number_does_not_poison_the_frames_behind_it(client: Client) -> None:
    async with client.stream("total", backlog="ALL") as stream:
        outcomes = []
        for value in (1, 3e38, 3e38, 2):
            await stream.send(np.float32([value, 0]))
            outcomes.append(await anext(stream))
    assert [outcome.status for outcome in outcomes] == [ON_TIME, ON_TIME, FAILED, ON_TIME]
    assert "the state of the stream starts anew" in outcomes[2].reason
    assert float(outcomes[3].outputs["y"][0]) == 2.0
