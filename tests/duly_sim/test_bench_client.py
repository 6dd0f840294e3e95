"""The load client in C++ speaks the protocol to servers in Python, and books every frame."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from duly.v1 import inference_pb2, inference_pb2_grpc, tensor_pb2
from duly_sim.research.bench import client as bench_client
from duly_sim.research.bench import servers as bench_servers
from duly_sim.research.bench.client import ClientError, Load, LoadClient, LoadResult

ON_TIME = inference_pb2.OUTCOME_STATUS_ON_TIME
SHED = inference_pb2.OUTCOME_STATUS_SHED
UNSPECIFIED = inference_pb2.OUTCOME_STATUS_UNSPECIFIED
Answer = tuple[int, inference_pb2.OutcomeStatus]
"""Frame id and status."""

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(bool(bench_client.missing_packages()), reason="needs a C++ compiler with gRPC"),
    pytest.mark.timeout(600),  # the first test compiles
]


@pytest.fixture(scope="module")
def client() -> LoadClient:
    return bench_client.build()


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with bench_servers.null_echo(tmp_path_factory.mktemp("echo")) as server:
        yield server.address.endpoint


def test_closed_loop_sends_exactly_as_many_frames_as_asked(client: LoadClient, echo: str) -> None:
    result = client.run(echo, Load("any", frame_bytes=1024, streams=3, window=4, frames=1000))
    assert (result.sent, result.answered, result.unanswered) == (1000, 1000, 0)
    assert result.outcomes.pop("ON_TIME") == 1000
    assert set(result.outcomes.values()) == {0}
    assert 0 < result.latency_ms["p50"] <= result.latency_ms["p90"] <= result.latency_ms["p99"]


def test_open_loop_keeps_to_its_schedule(client: LoadClient, echo: str) -> None:
    load = Load("any", frame_bytes=1024, streams=4, rate_hz=50.0, seconds=1.0, warmup_seconds=0.2)
    result = client.run(echo, load)
    assert result.sent == result.answered == 200
    assert result.outcomes["ON_TIME"] == 200


def test_nobody_listening_is_an_error(client: LoadClient, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="UNAVAILABLE"):
        client.run(f"unix:{tmp_path}/nobody.sock", Load("any", frame_bytes=4))


class Scripted(inference_pb2_grpc.InferenceServiceServicer):
    """Opens a stream with `opened` and answers its n-th frame with the n-th list of answers."""

    def __init__(self, opened: inference_pb2.StreamOpened, answers: list[list[Answer]]) -> None:
        self.opened = opened
        self.answers = iter(answers)
        self.open: inference_pb2.OpenStream | None = None
        self.frames: list[inference_pb2.Frame] = []

    async def Stream(self, request_iterator: Any, context: Any) -> None:
        self.open = (await context.read()).open
        await context.write(inference_pb2.StreamResponse(opened=self.opened))
        while (message := await context.read()) is not grpc.aio.EOF:
            self.frames.extend(message.frames.frames)
            outcomes = [inference_pb2.Outcome(frame_id=i, status=status) for i, status in next(self.answers)]
            if outcomes:
                await context.write(
                    inference_pb2.StreamResponse(outcomes=inference_pb2.OutcomeBatch(outcomes=outcomes))
                )


async def run_against(servicer: Scripted, client: LoadClient, load: Load) -> LoadResult:
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        return await asyncio.to_thread(client.run, f"127.0.0.1:{port}", load)
    finally:
        await server.stop(None)


def opened(*shape: int, datatype: tensor_pb2.DataType = tensor_pb2.DATA_TYPE_FP32) -> inference_pb2.StreamOpened:
    return inference_pb2.StreamOpened(inputs=[tensor_pb2.TensorSpec(name="x", datatype=datatype, shape=shape)])


async def test_frames_hold_what_the_model_asks_for(client: LoadClient) -> None:
    servicer = Scripted(opened(-1, 8), [[(i, ON_TIME)] for i in (1, 2, 3)])
    await run_against(servicer, client, Load("m", frame_bytes=2 * 8 * 4, frames=3, budget_ms=250.0))
    assert servicer.open is not None
    assert servicer.open.model == "m"
    assert servicer.open.default_budget_nano == 250_000_000
    assert servicer.open.backlog_policy == inference_pb2.BACKLOG_POLICY_ALL
    assert servicer.open.clock.uncertainty_nano == 1_000_000
    assert [frame.frame_id for frame in servicer.frames] == [1, 2, 3]
    captured = [frame.capture_time_unix_nano for frame in servicer.frames]
    assert captured == sorted(captured)
    (tensor,) = servicer.frames[0].tensors
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", tensor_pb2.DATA_TYPE_FP32, [2, 8])
    values = np.frombuffer(tensor.data, "<f4")
    assert values.shape == (16,)
    assert np.isfinite(values).all()


async def test_outcomes_are_counted_by_status_and_missing_ones_as_unanswered(client: LoadClient) -> None:
    servicer = Scripted(opened(4), [[], [(2, SHED), (1, ON_TIME)], [], []])
    result = await run_against(servicer, client, Load("m", frame_bytes=16, window=2, frames=4))
    assert (result.sent, result.answered, result.unanswered) == (4, 2, 2)
    assert result.outcomes["ON_TIME"] == result.outcomes["SHED"] == 1


@pytest.mark.parametrize(
    ("servicer", "frame_bytes", "complaint"),
    [
        (Scripted(opened(4), [[(1, ON_TIME), (1, ON_TIME)]]), 16, "frame 1 was answered twice"),
        (Scripted(opened(4), [[(2, ON_TIME)]]), 16, "frame 2 was answered but never sent"),
        (Scripted(opened(4), [[(1, UNSPECIFIED)]]), 16, "unknown status 0"),
        (Scripted(opened(4), []), 12, "takes 16 bytes, --frame-bytes says 12"),
        (Scripted(opened(4, datatype=tensor_pb2.DATA_TYPE_UINT8), []), 4, "is DATA_TYPE_UINT8; this client sends FP32"),
    ],
    ids=["twice", "never-sent", "unknown-status", "size", "type"],
)
async def test_a_server_or_a_caller_that_is_wrong_is_told_so(
    client: LoadClient, servicer: Scripted, frame_bytes: int, complaint: str
) -> None:
    with pytest.raises(ClientError, match=complaint):
        await run_against(servicer, client, Load("m", frame_bytes=frame_bytes, frames=1))
