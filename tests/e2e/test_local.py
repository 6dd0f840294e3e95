"""The local transport: frames in, outcomes out through shared memory, with the same promises as over gRPC."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from math import prod
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
import pytest_asyncio

from duly.access.tokens import new_token, policy_lines
from duly.app import App
from duly.rpc.local import layout
from duly.rpc.principal import is_on_this_machine
from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2
from duly_client import (
    Client,
    ClientTooSlow,
    InvalidRequest,
    ModelNotFound,
    NotAllowed,
    Outcome,
    ServerUnavailable,
    Status,
    StreamRefused,
)
from tests import graphs
from tests.e2e.local_wire import LocalWire, array, status
from tests.e2e.serving import serving
from tests.e2e.wire import ON_TIME, Wire, frame

pytestmark = pytest.mark.asyncio(loop_scope="module")

PICTURE = """
[[input]]
name = "image"
tensor = "x"
encodings = ["PNG"]
preprocess = [{ op = "layout", axes = "CHW" }]
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for a UNIX socket."""
    with tempfile.TemporaryDirectory(prefix="duly-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def models(folder: Path) -> Path:
    root = folder / "models"
    graphs.save(root, "double", graphs.scaling())
    graphs.save(root, "two", graphs.two_outputs())
    graphs.save(root, "sum", graphs.summing(), toml='default_backlog = "ALL"\n' + graphs.SUMMING)
    graphs.save(root, "picking", graphs.picking())
    graphs.save(root, "zeros", graphs.zeros())
    graphs.save(root, "large", graphs.copying(("N", 480, 640, 3), graphs.UINT8), toml="batch_sizes = [1, 2, 4]\n")
    graphs.save(root, "copies", graphs.copies(6, 200_000), toml="batch_sizes = [1]\n")
    graphs.save(root, "picture", graphs.copying(("N", 3, "H", "W"), graphs.UINT8), toml=PICTURE)
    graphs.save(root, "slow", graphs.slow(), toml="batch_sizes = [1]\n")
    return root


@pytest.fixture(scope="module")
def few(folder: Path) -> Path:
    """Models for servers of a test's own."""
    root = folder / "few"
    graphs.save(root, "double", graphs.scaling())
    graphs.save(root, "two", graphs.two_outputs())
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(models: Path, folder: Path) -> AsyncIterator[App]:
    async with serving(models, local=str(folder / "local.sock"), slow_reader_timeout_s=2.0) as app:
        yield app


@pytest.fixture
def target(server: App) -> str:
    return f"local:{server.local_path}"


async def outcomes_of(target: str, model: str, *payloads: object, **terms: object) -> list[Outcome]:
    async with Client(target) as client, client.stream(model, **({"backlog": "ALL"} | terms)) as stream:  # type: ignore[arg-type]
        for payload in payloads:
            await stream.send(payload)  # type: ignore[arg-type]
        await stream.finish()
        return sorted([outcome async for outcome in stream], key=lambda outcome: outcome.frame_id)


async def gone(app: App) -> None:
    """Waits until nothing is left of any stream."""
    memory = app.streams.host.memory
    while len(app.streams) or memory.shared_bytes or len(app.driver.held) or memory.outcomes or memory.result_bytes:
        await asyncio.sleep(0)


async def test_a_frame_comes_back_with_its_result_and_its_times(target: str) -> None:
    async with Client(target) as client, client.stream("double", budget_ms=5000, name="camera") as stream:
        assert [(spec.name, spec.datatype, spec.shape) for spec in stream.opened.inputs] == [("x", "FP32", (4,))]
        assert await stream.send(np.float32([1, -2, 3.5, 0])) == 1
        outcome = await anext(stream)
        assert (outcome.frame_id, outcome.status, outcome.reason) == (1, Status.ON_TIME, "")
        assert outcome.outputs["y"].tolist() == [2, -4, 7, 0]
        assert (outcome.version, outcome.variant, outcome.batch_size) == ("1", "default", 1)
        timing = outcome.timing
        assert 0 < timing.dispatched_ns <= timing.started_ns <= timing.finished_ns <= timing.sent_ns
        assert timing.capture_to_receipt_ns > 0
        assert timing.clock_uncertainty_ns == 1
        assert 0 < outcome.slack_ns <= 5 * 10**9 - timing.sent_ns
        assert abs(timing.received_unix_ns - time.time_ns()) < 60 * 10**9
        assert stream.clock == (0, 1)
        assert "y: FP32[4]" in repr(outcome)


async def test_it_says_what_grpc_says(server: App, target: str) -> None:
    """The same frames, good and bad, get the same outcomes but for times, and the same terms but for the memory."""
    values = [np.float32([1, 2, 3, 4]), np.float32([[1, 2, 3, 4]]), np.float32([1, 2]), np.int64([1, 2, 3, 4])]

    async def asked(target: str) -> tuple[list[object], object]:
        async with (
            Client(target) as client,
            client.stream("two", budget_ms=5000, check=False, outputs=["y"], ordering="ARRIVAL") as stream,
        ):
            told = []
            for value in values:
                await stream.send(value)
                outcome = await anext(stream)
                outputs = {name: (array.dtype, array.tolist()) for name, array in outcome.outputs.items()}
                told.append(
                    (outcome.frame_id, outcome.status, outcome.version, outcome.variant, outputs, outcome.reason)
                )
            opened = stream.opened
            return told, (opened.inputs, opened.outputs, opened.ordering, opened.backlog, opened.default_budget_ns)

    assert await asked(target) == await asked(server.address)


async def test_many_frames_go_out_together_and_share_batches(target: str) -> None:
    frames = [np.full(4, n, np.float32) for n in range(200)]
    outcomes = await outcomes_of(target, "double", *frames, budget_ms=5000)
    assert [outcome.outputs["y"].tolist() for outcome in outcomes] == [[2.0 * n] * 4 for n in range(200)]
    assert max(outcome.batch_size for outcome in outcomes) > 1


@pytest.mark.parametrize("spin_us", [0, 200])
async def test_frames_of_one_array_are_as_those_of_a_list(target: str, spin_us: float) -> None:
    """Also of more than a message and a turn of the loop take, and than may be unanswered."""
    values = np.arange(4 * 400, dtype=np.float32).reshape(400, 4)
    strided = np.zeros((400, 8), np.float32)[:, ::2]
    strided[:] = values
    async with Client(target, spin_us=spin_us) as client:
        for payloads in (values, list(values), strided, [*values[:100], *values[100:, None]]):
            async with client.stream("double", backlog="ALL", budget_ms=60_000) as stream:
                sending = asyncio.create_task(stream.send_many(payloads))
                got: dict[int, list[float]] = {}
                while len(got) < 400:
                    got |= {each.frame_id: each.outputs["y"].tolist() for each in await stream.next_batch()}
                assert await sending == list(range(1, 401)) == sorted(got)
                assert [got[frame_id] for frame_id in range(1, 401)] == (2 * values).tolist()


async def test_frames_of_a_list_that_do_not_fit_are_refused_before_any_is_sent(target: str) -> None:
    fits = np.zeros(4, np.float32)
    async with Client(target) as client, client.stream("double", backlog="ALL", budget_ms=60_000) as stream:
        for wrong in (np.zeros((3, 5), np.float32), np.zeros((3, 4), np.float64), [fits, np.zeros(5, np.float32)]):
            with pytest.raises(ValueError, match=r"frame \d of \d: input 'x'"):
                await stream.send_many(wrong)
        with pytest.raises(TypeError, match="frame 1 of 2"):
            await stream.send_many([fits, None])  # type: ignore[list-item]
        assert await stream.send_many(np.zeros((0, 4), np.float32)) == []
        assert await stream.send_many([fits]) == [1]
        assert (await anext(stream)).status == Status.ON_TIME


async def test_many_large_frames_are_lent_as_one_array(target: str) -> None:
    random = np.random.default_rng(2)
    async with Client(target) as client, client.stream("large", backlog="ALL", budget_ms=60_000) as stream:
        for count in (2, 5, 3):
            pictures = await stream.loan((count, 480, 640, 3))
            pictures[:] = random.integers(0, 255, pictures.shape, np.uint8)
            copy = pictures.copy()
            ids = await stream.send_many(pictures)
            got = {outcome.frame_id: outcome.outputs["y"] for outcome in [await anext(stream) for _ in ids]}
            assert all(np.array_equal(got[frame_id], picture) for frame_id, picture in zip(ids, copy, strict=True))


async def test_who_looks_for_outcomes_waits_for_the_slow_ones_as_well(server: App, target: str) -> None:
    async with Client(target, spin_us=100) as client, client.stream("slow", budget_ms=60_000) as stream:
        frame = np.zeros(stream.opened.inputs[0].shape, stream.opened.inputs[0].dtype)
        for _ in range(3):
            await stream.send(frame)
            assert (await anext(stream)).status == Status.ON_TIME
        await stream.finish()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    for wrong in (-1, 1001, float("nan")):
        with pytest.raises(ValueError, match="spin_us should be 0 to 1000"):
            Client(target, spin_us=wrong)
    await gone(server)


async def test_large_frames_are_right_whether_lent_or_copied(target: str) -> None:
    random = np.random.default_rng(1)
    sent = {}
    async with Client(target) as client, client.stream("large", backlog="ALL", budget_ms=60_000) as stream:
        for n in range(40):
            picture = await stream.loan() if n % 2 else np.empty((480, 640, 3), np.uint8)
            picture[:] = random.integers(0, 255, picture.shape, np.uint8)
            copy = picture.copy()
            sent[await stream.send(picture)] = copy
        await stream.finish()
        got = {outcome.frame_id: outcome.outputs["y"] async for outcome in stream}
    assert got.keys() == sent.keys()
    assert all(np.array_equal(got[frame_id], picture) for frame_id, picture in sent.items())


async def test_a_loan_that_is_dropped_is_given_back(target: str) -> None:
    async with Client(target) as client, client.stream("large") as stream:
        for _ in range(100):  # many more than have room at once
            picture = await stream.loan()
            picture[0, 0, 0] = 1
        part = picture[10:]  # it keeps what it is a part of
        part_at = part.__array_interface__["data"][0]
        del picture
        other = await stream.loan()
        assert not other.__array_interface__["data"][0] <= part_at < other.__array_interface__["data"][0] + other.nbytes


async def test_a_loan_outlives_its_connection_as_an_array(few: Path, folder: Path) -> None:
    path = str(folder / "restarted.sock")
    async with Client(f"local:{path}", open_timeout_s=60) as client:
        async with serving(few, local=path):
            stream = await client.stream("double", budget_ms=60_000).__aenter__()
            lent = await stream.loan()
            lent[:] = 21
        async with serving(few, local=path):
            await stream.send(lent)
            outcome = await anext(stream)
            assert outcome.status is Status.ON_TIME
            assert outcome.outputs["y"].tolist() == [42] * 4
            await stream.close()


async def test_pictures_are_decoded(target: str) -> None:
    picture = np.random.default_rng(2).integers(0, 255, (30, 20, 3), np.uint8)
    png = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
    ok, broken = await outcomes_of(target, "picture", png, png[:40])
    assert np.array_equal(ok.outputs["y"], picture.transpose(2, 0, 1))
    assert broken.status is Status.INVALID
    assert "PNG" in broken.reason


async def test_results_that_are_larger_than_their_memory_come_in_pieces(target: str) -> None:
    """4 bytes an element: up to 24 MB, of which no more than 4 MiB lie in memory at once."""
    lengths = [6_000_000, 10, 300_000, 262_144, 2_000_000]
    outcomes = await outcomes_of(
        target, "zeros", *[np.int64([n]) for n in lengths], budget_ms=60_000, ordering="ARRIVAL"
    )
    assert [outcome.outputs["y"].shape for outcome in outcomes] == [(n,) for n in lengths]
    assert not any(outcome.outputs["y"].any() for outcome in outcomes)


async def test_results_that_are_larger_than_their_memory_together(target: str) -> None:
    """Each of six outputs has room, and not all of them at once."""
    frames = [np.full(200_000, n, np.float32) for n in range(1, 5)]
    for ordered in (frames, frames[:1]):
        outcomes = await outcomes_of(target, "copies", *ordered, budget_ms=60_000, ordering="ARRIVAL")
        for payload, outcome in zip(ordered, outcomes, strict=True):
            assert sorted(outcome.outputs) == [f"y{n}" for n in range(6)]
            assert all(np.array_equal(output, payload) for output in outcome.outputs.values())


async def test_state_is_kept_for_each_stream(target: str) -> None:
    frames = [np.float32([1, n]) for n in range(1, 6)]
    one, two = await asyncio.gather(*(outcomes_of(target, "sum", *frames, budget_ms=5000) for _ in range(2)))
    for outcomes in (one, two):
        assert [outcome.outputs["y"].tolist() for outcome in outcomes] == [[n, n * (n + 1) / 2] for n in range(1, 6)]


async def test_every_status_but_late_comes_through(target: str) -> None:
    ran = await outcomes_of(target, "picking", np.array(3), np.array(4), check=False, budget_ms=5000)
    assert [outcome.status for outcome in ran] == [Status.ON_TIME, Status.FAILED]
    skipped = await outcomes_of(target, "sum", np.float32([1, np.nan]), np.float32([1, 1]), gap="SKIP", budget_ms=5000)
    assert [outcome.status for outcome in skipped] == [Status.INVALID, Status.SKIPPED]
    one = np.float32([[1]])
    newest = await outcomes_of(target, "slow", *[one] * 20, backlog="LATEST", budget_ms=60_000)
    assert newest[-1].status is Status.ON_TIME
    assert {outcome.status for outcome in newest[1:-1]} == {Status.SUPERSEDED}
    shed = await outcomes_of(target, "slow", *[one] * 300, budget_ms=60_000)
    assert {outcome.status for outcome in shed} == {Status.ON_TIME, Status.SHED}
    async with Client(target) as client, client.stream("slow", backlog="ALL", budget_ms=60_000) as stream:
        for _ in range(6):
            await stream.send(one)
        await stream.send(one, budget_ms=1e-6)
        stream.cancel([3, 4, 99])
        await stream.finish()
        got = {outcome.frame_id: outcome.status async for outcome in stream}
    assert (got[7], got[3], got[4], got[6]) == (Status.EXPIRED, Status.CANCELLED, Status.CANCELLED, Status.ON_TIME)


async def test_what_fits_neither_the_model_nor_the_bytes_is_invalid_as_over_grpc(folder: Path) -> None:
    """In one message: what fills the bytes of the stream, then a frame that fits the model, then two that do not."""
    graphs.save(folder / "full", "picture", graphs.copying(("N", 3, "H", "W"), graphs.UINT8), toml=PICTURE)
    noise = np.random.default_rng(5).integers(0, 256, (20, 20, 3), np.uint8)
    picture = cv2.imencode(".png", noise)[1].tobytes()
    size, shape = len(picture), (3, 1, len(picture) // 3, 1)
    broken, flat = b"no picture".ljust(size), bytes(prod(shape))
    png, uint8 = tensor_pb2.ENCODED_FORMAT_PNG, tensor_pb2.DATA_TYPE_UINT8
    ids = range(1, 6)
    over_grpc = [
        *[pb.Frame(encoded=[tensor_pb2.Encoded(format=png, data=data)]) for data in (*[picture] * 3, broken)],
        pb.Frame(tensors=[tensor_pb2.Tensor(datatype=uint8, shape=shape, data=flat)]),
    ]
    path = str(folder / "full.sock")
    async with (
        serving(folder / "full", local=path, bytes_in_flight_max=3 * size - 1) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        Wire(channel, model="picture", backlog_policy=pb.BACKLOG_POLICY_ALL, default_budget_nano=60 * 10**9) as wire,
        LocalWire(path, model="picture", default_budget_nano=60 * 10**9) as local,
    ):
        for frame_id, each in zip(ids, over_grpc, strict=True):
            each.frame_id = frame_id
        tensor, no_extents = layout.TENSOR, [0] * layout.EXTENTS
        described = [
            *[
                tensor.pack(local.put(data), size, 0, layout.ENCODED + png, 0, *no_extents)
                for data in (*[picture] * 3, broken)
            ],
            tensor.pack(local.put(flat), len(flat), 0, uint8, len(shape), *shape, *no_extents[len(shape) :]),
        ]
        await wire.send(*over_grpc)
        await local.send(*[layout.FRAME.pack(n, 0, 0, 0, 1, 0) + each for n, each in zip(ids, described, strict=True)])
        await wire.finish()
        await local.finish()
        for outcomes in (wire.outcomes, local.outcomes):
            statuses = [status(outcomes[frame_id]) for frame_id in ids]
            assert statuses == ["ON_TIME", "ON_TIME", "SHED", "INVALID", "INVALID"]
        assert [wire.outcomes[n].reason for n in ids] == [local.outcomes[n].reason for n in ids]


async def test_outcomes_in_arrival_order(target: str) -> None:
    async with (
        Client(target) as client,
        client.stream("slow", backlog="ALL", budget_ms=60_000, ordering="ARRIVAL", check=False) as stream,
    ):
        for payload in (np.float32([[1]]), np.float32([1, 2]), np.float32([[3]])):
            await stream.send(payload, budget_ms=60_000)
        await stream.finish()
        assert [outcome.frame_id async for outcome in stream] == [1, 2, 3]


async def test_what_is_refused_is_said_as_over_grpc(server: App, target: str) -> None:
    async with Client(target, reconnect=False) as client:
        with pytest.raises(ModelNotFound) as unknown:
            await client.stream("nothing").__aenter__()
        assert unknown.value.reason == "MODEL_NOT_FOUND"
        with pytest.raises(InvalidRequest, match=r"floor\.window should be 2 to 1024, got 1"):
            await client.stream("double", floor=(1, 1)).__aenter__()
        with pytest.raises(StreamRefused) as refused:
            await client.stream("slow", period_ms=1, budget_ms=1000, stream_class="CRITICAL").__aenter__()
        assert "period_nano" in refused.value.metadata
        with pytest.raises(RuntimeError, match="for streams alone"):
            await client.models()
    await gone(server)


async def test_nobody_there(folder: Path) -> None:
    async with Client(f"local:{folder}/nobody.sock", reconnect=False) as client:
        with pytest.raises(ServerUnavailable, match="No such file or directory"):
            await client.stream("double").__aenter__()


@pytest.mark.parametrize("target", ["local:", "local:a b", "local:../x"])
async def test_a_target_that_is_none(target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        Client(target)


async def test_a_name_stands_for_a_path(few: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    async with serving(few, local="cameras") as app:
        assert app.local_path == f"{folder}/duly-cameras.sock"
        (outcome,) = await outcomes_of("local:cameras", "double", np.float32([1, 2, 3, 4]), budget_ms=5000)
        assert outcome.status is Status.ON_TIME
    assert "duly-cameras.sock" not in os.listdir(folder)


async def test_advice_comes_through(target: str, server: App) -> None:
    heard = []
    async with (
        Client(target) as client,
        client.stream("slow", backlog="ALL", on_advice=heard.append, budget_ms=200) as stream,
    ):

        async def read() -> None:
            async for _ in stream:
                pass

        reading = asyncio.create_task(read())
        while not heard:
            await stream.send(np.float32([[1]]))
            await asyncio.sleep(0)
        reading.cancel()
    assert heard[0].kind == "SLOW_DOWN"
    assert heard[0].period_ns > 0


async def test_the_policy_says_who_may(few: Path, folder: Path) -> None:
    token = new_token()
    policy = folder / "policy.toml"
    mine = f'[[principal]]\nname = "me"\nmay = ["infer"]\nmodels = ["double"]\nunix = [{{ uid = {os.getuid()} }}]\n'
    other = f'[[principal]]\nname = "other"\nmay = ["infer"]\nmodels = ["two"]\n{policy_lines(token)}\n'
    policy.write_text(mine + other, "utf-8")
    path = f"local:{folder}/policy.sock"
    async with serving(few, local=str(folder / "policy.sock"), policy=policy) as app:
        (outcome,) = await outcomes_of(path, "double", np.float32([1, 2, 3, 4]), budget_ms=5000)
        assert outcome.status is Status.ON_TIME
        async with Client(path, reconnect=False) as client:
            with pytest.raises(NotAllowed, match="'me' has no right to use the model 'two'"):
                await client.stream("two").__aenter__()
        async with Client(path, reconnect=False, token=token) as client, client.stream("two") as stream:
            with pytest.raises(NotAllowed):
                await client.stream("double").__aenter__()
            policy.write_text(mine, "utf-8")
            app._doors.gate.reload_soon()
            with pytest.raises(NotAllowed):
                await anext(stream)
        async with Client(path, reconnect=False, token=token) as client:
            with pytest.raises(NotAllowed, match="not known here"):
                await client.stream("two").__aenter__()
        policy.write_text(mine.replace(str(os.getuid()), "4242"), "utf-8")
        await app._doors.gate.reload()
        async with Client(path, reconnect=False) as client:
            with pytest.raises(NotAllowed, match="no credential"):
                await client.stream("double").__aenter__()


async def test_a_drain_answers_everything_and_says_so(models: Path, folder: Path) -> None:
    path = str(folder / "drain.sock")
    async with (
        serving(models, local=path) as app,
        Client(f"local:{path}", reconnect=False) as client,
        client.stream("slow", backlog="ALL", budget_ms=60_000) as stream,
    ):
        for _ in range(5):
            await stream.send(np.float32([[1]]))
        assert (await anext(stream)).status is Status.ON_TIME
        drained = app.drain()
        got = [(await anext(stream)).status for _ in range(4)]
        await drained
        assert set(got) == {Status.ON_TIME}
        with pytest.raises(ServerUnavailable) as ended:
            await anext(stream)
        assert ended.value.reason == "DRAINING"
        with pytest.raises(ServerUnavailable):
            await client.stream("double").__aenter__()


async def test_memory_is_bounded_and_given_back(models: Path, folder: Path) -> None:
    async with serving(models, local=str(folder / "few.sock"), local_bytes_max=40 << 20) as app:
        memory = app.streams.host.memory
        async with Client(f"local:{app.local_path}", reconnect=False) as client, client.stream("large"):
            assert 16 << 20 < memory.shared_bytes < 24 << 20
            with pytest.raises(StreamRefused, match=r"local_bytes_max") as refused:
                await client.stream("large").__aenter__()
            assert refused.value.reason == "STREAMS_EXHAUSTED"
            async with client.stream("double"):
                pass
        await gone(app)
        async with (
            Client(f"local:{app.local_path}", local_memory_bytes=2 << 20) as small,
            small.stream("large") as stream,
        ):
            assert memory.shared_bytes < 8 << 20
            await stream.send(np.zeros((480, 640, 3), np.uint8), budget_ms=5000)
            assert (await anext(stream)).status is Status.ON_TIME


async def test_a_client_that_reads_nothing_ends_alone(server: App, target: str) -> None:
    """Results fill their memory, then the outbox; the server holds no more, and ends the stream after its time."""
    async with (
        LocalWire(server.local_path, model="large") as wire,
        Client(target) as client,
        client.stream("double", budget_ms=5000) as other,
    ):
        tensor = layout.TENSOR.pack(0, 921_600, 0, 0, 0, *[0] * layout.EXTENTS)
        for frame_id in range(1, 31):
            await wire.send(layout.FRAME.pack(frame_id, 0, 0, 0, 1, 0) + tensor)
        while len(server.streams) == 2:
            await other.send(np.float32([1, 2, 3, 4]))
            assert (await anext(other)).status is Status.ON_TIME
        # What the client had been sent is no more what it was, and it can tell.
        with pytest.raises(ClientTooSlow):
            await wire.ended()


async def test_wire_of_grpc_and_local_share_batches(server: App) -> None:
    async with (
        grpc.aio.insecure_channel(server.address) as channel,
        Wire(channel, model="double") as remote,
        LocalWire(server.local_path, model="double") as local,
    ):
        for n in range(1, 51):
            await remote.send(frame(n, [n] * 4))
            await local.send(local.described(n, [-n] * 4))
        await remote.finish()
        await local.finish()
        assert all(outcome.status == ON_TIME for outcome in remote.outcomes.values())
        assert {status(outcome) for outcome in local.outcomes.values()} == {"ON_TIME"}
        assert [array(local.outcomes[n]).tolist() for n in range(1, 51)] == [[-2.0 * n] * 4 for n in range(1, 51)]


async def test_clock_pings_are_answered(server: App) -> None:
    async with LocalWire(server.local_path, model="double") as wire:
        sent = time.time_ns()
        ping = pb.StreamRequest(clock_ping=pb.ClockPing(ping_id=3, client_send_unix_nano=sent))
        await wire.write(bytes([layout.REQUEST]) + ping.SerializeToString())
        await wire.read()
        (response,) = wire.responses
        assert response.clock_pong.ping_id == 3
        assert sent <= response.clock_pong.server_receive_unix_nano


async def test_clients_on_this_machine_find_the_way_themselves(few: Path, folder: Path) -> None:
    path, remote = str(folder / "offer.sock"), f"unix:{folder}/offer-grpc.sock"
    async with serving(few, local=path, listen=remote, local_bytes_max=4 << 20) as app:
        memory = app.streams.host.memory
        async with Client(remote) as client, client.stream("double", budget_ms=5000) as stream:
            assert memory.shared_bytes > 0
            await stream.send(np.float32([1, 2, 3, 4]))
            assert (await anext(stream)).outputs["y"].tolist() == [2, 4, 6, 8]
            offered = (await client.server_info()).local_path
            assert offered.startswith(f"{path}."), "a name that no other server's socket has"
        await gone(app)
        async with Client(remote, transport="grpc") as client, client.stream("double", budget_ms=5000) as stream:
            assert memory.shared_bytes == 0
            lent = await stream.loan()  # an ordinary array
            lent[:] = 1
            await stream.send(lent)
            assert (await anext(stream)).outputs["y"].tolist() == [2, 2, 2, 2]
        async with Client(remote, local_memory_bytes=64 << 20) as client, client.stream("double") as stream:
            assert memory.shared_bytes == 0, "there is no room for so much, so that it goes over gRPC"
            await stream.send(np.float32([1, 2, 3, 4]), budget_ms=5000)
            assert (await anext(stream)).status is Status.ON_TIME
        os.unlink(offered)
        async with Client(remote) as client, client.stream("double") as stream:
            assert memory.shared_bytes == 0, "nobody is there"
            await stream.send(np.float32([1, 2, 3, 4]), budget_ms=5000)
            assert (await anext(stream)).status is Status.ON_TIME


async def test_a_client_that_is_closed_ends_its_streams(server: App, target: str) -> None:
    async with Client(target) as client:
        stream = await client.stream("slow", backlog="ALL", budget_ms=60_000).__aenter__()
        await stream.send(np.float32([[1]]))
    await gone(server)
    outcome = await anext(stream)
    assert (outcome.status, outcome.reason) == (Status.CANCELLED, "connection lost: the client is closed")
    with pytest.raises(RuntimeError, match="not open"):
        await anext(stream)


async def test_who_is_elsewhere_is_offered_nothing(server: App) -> None:
    assert is_on_this_machine("unix:%40")
    assert is_on_this_machine("unix-abstract:duly-1/0/0/1/2")
    assert is_on_this_machine("ipv4:127.0.0.1:4321")
    assert is_on_this_machine("ipv6:%5B::1%5D:4321")
    assert not is_on_this_machine("ipv4:10.0.0.1:4321")
    assert not is_on_this_machine("nobody")
