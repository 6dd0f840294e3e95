"""The generator's KServe side: every frame's answer is found and told once, and what is wrong with a target is said."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool

from duly.core.types import StreamClass
from duly_client.types import Encoding, Payload
from duly_load.protocols import kserve, kserve_proto
from duly_load.protocols.address import Address, parse_address
from duly_load.protocols.byte_budget import ByteBudget
from duly_load.protocols.connection import Connection, FrameAnswer, TargetError
from duly_load.protocols.kserve import KserveTarget
from duly_load.protocols.kserve_messages import KserveModel, ModelError, outcome_of_error
from duly_load.results.outcomes import FrameOutcome
from duly_load.scenario.schedule import Session
from duly_load.scenario.tables import Sensor
from duly_load.targets import null_echo

BUDGET_NS = 50_000_000
FRAME = np.arange(4, dtype=np.float32)
SENSOR = Sensor.model_validate(
    {"name": "s", "model": "m", "budget_ms": 50.0, "arrivals": {"kind": "poisson", "rate_hz": 10.0}}
)
SESSION = Session(1, "s", 0, StreamClass.STANDARD, "m", BUDGET_NS, 0, 10**9)
FAR_NS = 4 * 10**18
"""A capture time to come: budgets are never spent."""

Answer = Callable[[Any], Any]


class Heard:
    """What a connection told."""

    def __init__(self) -> None:
        self.outcomes: dict[int, FrameOutcome] = {}
        self.reasons: list[str] = []
        self.over = asyncio.Event()

    def answered(self, answer: FrameAnswer) -> None:
        assert answer.place not in self.outcomes
        assert answer.at_ns > 0
        self.outcomes[answer.place] = answer.outcome

    def ended(self, reason: str) -> None:
        self.reasons.append(reason)
        self.over.set()


class Scripted:
    """A server of the parts of the protocol that it is given; the model `m` takes `x` of FP32[-1,4]."""

    def __init__(self, infer: Any = None, stream: Any = None, ready: bool = True, live: bool = True) -> None:
        self.requests: list[Any] = []
        self.came = asyncio.Event()
        """Some request came."""
        metadata = kserve_proto.ModelMetadataResponse(name="m")
        metadata.inputs.add(name="x", datatype="FP32", shape=(-1, 4))
        self.metadata = metadata
        self._answers: dict[str, Any] = {
            "ServerLive": kserve_proto.ServerLiveResponse(live=live),
            "ModelReady": kserve_proto.ModelReadyResponse(ready=ready),
            "ModelMetadata": metadata,
        }
        self._infer, self._stream = infer, stream

    @asynccontextmanager
    async def serving(self, options: str = "") -> AsyncIterator[tuple[Address, grpc.aio.Server]]:
        server = grpc.aio.server()
        handlers = {name: grpc.unary_unary_rpc_method_handler(_saying(it)) for name, it in self._answers.items()}
        parse = self._parse
        if self._infer:
            handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(self._infer, parse, _serialized)
        if self._stream:
            handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream, parse, _serialized)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(kserve_proto.SERVICE, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield parse_address(f"kserve://127.0.0.1:{port}{options}"), server
        finally:
            await server.stop(None)

    def _parse(self, message: bytes) -> Any:
        self.requests.append(kserve_proto.ModelInferRequest.FromString(message))
        self.came.set()
        return self.requests[-1]


def _saying(message: Any) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def say(_: bytes, __: Any) -> bytes:
        return bytes(message.SerializeToString())

    return say


def _serialized(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


def _result(request: Any) -> Any:
    result = kserve_proto.ModelInferResponse(model_name="m", id=request.id)
    result.outputs.add(name="y", datatype="FP32", shape=(1, 4))
    return kserve_proto.ModelStreamInferResponse(infer_response=result)


def _error(text: str, frame: str = "") -> Any:
    return kserve_proto.ModelStreamInferResponse(
        error_message=text, infer_response=kserve_proto.ModelInferResponse(id=frame)
    )


def stream_of(answer: Answer) -> Callable[[Any, Any], Awaitable[None]]:
    """Answers each request at once: by one message, several, or None at all."""

    async def serve(_: Any, context: Any) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            answers = answer(request)
            for each in answers if isinstance(answers, list) else [answers]:
                await context.write(each)

    return serve


@asynccontextmanager
async def opened(address: Address, heard: Heard, encoding: Encoding | None = None) -> AsyncIterator[Connection]:
    async with KserveTarget(address) as target:
        connection = target.connection(SENSOR, SESSION, encoding, heard)
        await connection.open()
        try:
            yield connection
        finally:
            await connection.close()


async def send_all(connection: Connection, frames: range, capture_unix_ns: int = FAR_NS) -> None:
    for nth in frames:
        await connection.send(nth, FRAME, capture_unix_ns)


BOTH = pytest.mark.parametrize("options", ["", "?calls=unary"], ids=["streams", "unary"])


@BOTH
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
async def test_each_frame_is_answered_once(options: str, unix: bool, tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/echo.sock" if unix else "127.0.0.1:0"
    server, port = await null_echo.start(listen)
    heard = Heard()
    name = f"kserve+{listen}" if unix else f"kserve://127.0.0.1:{port}"
    try:
        async with opened(parse_address(name + options), heard) as connection:
            await send_all(connection, range(200))
            await connection.finish()
    finally:
        await server.stop(None)
    assert heard.outcomes == dict.fromkeys(range(200), FrameOutcome.ON_TIME)
    assert heard.reasons == []


async def test_connections_share_a_model_and_keep_their_answers_apart() -> None:
    server = Scripted(stream=stream_of(_result))
    async with server.serving() as (address, _), KserveTarget(address) as target:
        both = [Heard(), Heard()]
        connections = [target.connection(SENSOR, SESSION, None, heard) for heard in both]
        for first, connection in zip((0, 100), connections, strict=True):
            await connection.open()
            await send_all(connection, range(first, first + 20))
        for connection in connections:
            await connection.finish()
            await connection.close()
    assert [sorted(heard.outcomes) for heard in both] == [[*range(20)], [*range(100, 120)]]


async def test_inputs_are_told_without_the_batch_dimension() -> None:
    async with Scripted(stream=stream_of(_result)).serving() as (address, _), KserveTarget(address) as target:
        (spec,) = await target.inputs("m")
    assert (spec.name, spec.datatype, spec.dtype, spec.shape) == ("x", "FP32", np.dtype("<f4"), (4,))


@BOTH
async def test_a_request_holds_the_frame(options: str) -> None:
    async def infer(request: Any, _: Any) -> Any:
        return _result(request).infer_response

    server = Scripted(infer, stream_of(_result))
    async with server.serving(options) as (address, _), opened(address, Heard()) as connection:
        await send_all(connection, range(41, 44))
        await connection.finish()
    assert [request.id for request in sorted(server.requests, key=lambda it: str(it.id))] == ["41", "42", "43"]
    for request in server.requests:
        (tensor,) = request.inputs
        assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", "FP32", [1, 4])
        assert list(request.raw_input_contents) == [FRAME.tobytes()]
        assert request.model_name == "m"
        assert not request.parameters


async def test_timeout_is_what_is_left_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve.time, "time_ns", lambda: 1_000_000_000)
    server = Scripted(stream=stream_of(_result))
    async with server.serving("?timeout=budget") as (address, _), opened(address, Heard()) as connection:
        for nth, late_ns in enumerate((0, 20_000_000, BUDGET_NS - 1500, BUDGET_NS + 5)):
            await connection.send(nth, FRAME, 1_000_000_000 - late_ns)
        await connection.finish()
    assert [request.parameters["timeout"].int64_param for request in server.requests] == [50_000, 30_000, 1, 1]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Request timeout expired", FrameOutcome.EXPIRED),
        ("[request id: 5] Exceeds maximum queue size", FrameOutcome.SHED),
        (
            "[request id: 5] unexpected shape for input 'x' for model 'm'. Expected [-1,4], got [1,3].",
            FrameOutcome.INVALID,
        ),
        (
            "[request id: 5] inference input 'x' data-type is 'INT32', but model 'm' expects 'FP32'",
            FrameOutcome.INVALID,
        ),
        ("Request for unknown model: 'm' is not found", FrameOutcome.FAILED),
        ("the model broke", FrameOutcome.FAILED),
    ],
)
async def test_errors_in_a_stream_belong_to_their_frame(text: str, outcome: FrameOutcome) -> None:
    def answer(request: Any) -> Any:
        if request.id != "5":
            return _result(request)
        return _error(text, frame="" if "request id" in text else "5")

    heard = Heard()
    async with Scripted(stream=stream_of(answer)).serving() as (address, _), opened(address, heard) as connection:
        await send_all(connection, range(4, 7))
        await connection.finish()
    assert heard.outcomes == {4: FrameOutcome.ON_TIME, 5: outcome, 6: FrameOutcome.ON_TIME}
    assert heard.reasons == []


@pytest.mark.parametrize(
    ("code", "text", "outcome"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Request timeout expired", FrameOutcome.EXPIRED),
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size", FrameOutcome.SHED),
        (grpc.StatusCode.UNAVAILABLE, "too busy", FrameOutcome.SHED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too busy", FrameOutcome.SHED),
        (grpc.StatusCode.INVALID_ARGUMENT, "not that", FrameOutcome.INVALID),
        (grpc.StatusCode.INTERNAL, "it broke", FrameOutcome.FAILED),
    ],
)
async def test_a_call_that_fails_costs_its_frame_alone(code: grpc.StatusCode, text: str, outcome: FrameOutcome) -> None:
    async def infer(request: Any, context: Any) -> Any:
        if request.id == "1":
            await context.abort(code, text)
        return _result(request).infer_response

    heard = Heard()
    async with Scripted(infer).serving("?calls=unary") as (address, _), opened(address, heard) as connection:
        await send_all(connection, range(3))
        await connection.finish()
    assert heard.outcomes == {0: FrameOutcome.ON_TIME, 1: outcome, 2: FrameOutcome.ON_TIME}
    assert heard.reasons == []


async def test_empty_final_responses_are_no_answers() -> None:
    def answer(request: Any) -> list[Any]:
        final = kserve_proto.ModelStreamInferResponse()
        final.infer_response.id = request.id
        final.infer_response.parameters["triton_final_response"].bool_param = True
        return [_result(request), final]

    heard = Heard()
    async with Scripted(stream=stream_of(answer)).serving() as (address, _), opened(address, heard) as connection:
        await send_all(connection, range(3))
        await connection.finish()
    assert heard.outcomes == dict.fromkeys(range(3), FrameOutcome.ON_TIME)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda request: _error("all is lost"), "an error that belongs to no frame: all is lost"),
        (lambda request: [_result(request)] * 2, "it answered a request '0' that was not under way"),
        (lambda request: _result(kserve_proto.ModelInferRequest(id="99")), "a request '99' that was not under way"),
        (lambda request: _result(kserve_proto.ModelInferRequest(id="x")), "a request 'x' that was not under way"),
        (lambda request: kserve_proto.ModelInferResponse(model_name="m"), r"not answer as Triton's do.*\?calls=unary"),
        (lambda request: b"\xff", r"not answer as Triton's do.*\?calls=unary"),
    ],
    ids=["error of no frame", "twice", "never sent", "foreign id", "another message", "no message"],
)
async def test_answers_that_cannot_be_right_end_the_stream(answer: Answer, complaint: str) -> None:
    heard = Heard()
    async with Scripted(stream=stream_of(answer)).serving() as (address, _), opened(address, heard) as connection:
        await connection.send(0, FRAME, FAR_NS)
        await heard.over.wait()
        await connection.send(1, FRAME, FAR_NS)
        await connection.finish()
    (reason,) = heard.reasons
    assert re.search(complaint, reason)
    assert 1 not in heard.outcomes


async def test_a_stream_that_the_server_closes_is_told_once() -> None:
    async def serve(_: Any, context: Any) -> None:
        await context.write(_result(await context.read()))

    heard = Heard()
    async with Scripted(stream=serve).serving() as (address, _), opened(address, heard) as connection:
        await connection.send(0, FRAME, FAR_NS)
        await heard.over.wait()
        await connection.finish()
    assert heard.outcomes == {0: FrameOutcome.ON_TIME}
    assert [reason.partition(": ")[2] for reason in heard.reasons] == ["it closed the stream"]


@BOTH
async def test_a_server_that_dies_leaves_its_frames_unanswered(options: str) -> None:
    answered_first = asyncio.Event()

    async def infer(request: Any, _: Any) -> Any:
        if request.id != "0":
            await asyncio.Event().wait()
        return _result(request).infer_response

    async def stream(_: Any, context: Any) -> None:
        if (first := await context.read()) is not grpc.aio.EOF:
            await context.write(_result(first))
            await asyncio.Event().wait()

    class Watching(Heard):
        def answered(self, answer: FrameAnswer) -> None:
            super().answered(answer)
            answered_first.set()

    heard = Watching()
    async with Scripted(infer, stream).serving(options) as (address, server), opened(address, heard) as connection:
        await send_all(connection, range(50))
        await answered_first.wait()
        await server.stop(None)
        await heard.over.wait()
        await send_all(connection, range(50, 60))
        await connection.finish()
    assert heard.outcomes == {0: FrameOutcome.ON_TIME}
    (reason,) = heard.reasons
    assert "broke off" in reason


@BOTH
async def test_nothing_is_told_of_an_end_that_was_asked_for(options: str) -> None:
    async def never(request: Any, _: Any) -> Any:
        await asyncio.Event().wait()

    async def stream(_: Any, context: Any) -> None:
        if await context.read() is not grpc.aio.EOF:
            await asyncio.Event().wait()

    server, heard = Scripted(never, stream), Heard()
    async with server.serving(options) as (address, _), opened(address, heard) as connection:
        await connection.send(0, FRAME, FAR_NS)
        await server.came.wait()
        await connection.close()
        await connection.send(1, FRAME, FAR_NS)
    assert (heard.outcomes, heard.reasons) == ({}, [])


async def test_calls_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve, "CALLS_MAX", 3)
    answers, under_way = asyncio.Semaphore(0), 0
    most = 0

    async def infer(request: Any, _: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await answers.acquire()
        under_way -= 1
        return _result(request).infer_response

    heard, server = Heard(), Scripted(infer)
    async with server.serving("?calls=unary") as (address, _), opened(address, heard) as connection:
        sending = asyncio.create_task(send_all(connection, range(20)))
        await server.came.wait()
        for _ in range(20):
            answers.release()
        await sending
        await connection.finish()
    assert len(heard.outcomes) == 20
    assert most <= 3


async def test_bytes_of_calls_under_way_are_bounded_for_all_connections_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kserve, "REQUESTS_BYTES_MAX", 2 * FRAME.nbytes)
    under_way = most = 0

    async def infer(request: Any, _: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return _result(request).infer_response

    both = [Heard(), Heard()]
    async with Scripted(infer).serving("?calls=unary") as (address, _), KserveTarget(address) as target:
        connections = [target.connection(SENSOR, SESSION, None, heard) for heard in both]
        for connection in connections:
            await connection.open()
        await asyncio.gather(*(send_all(connection, range(20)) for connection in connections))
        for connection in connections:
            await connection.finish()
            await connection.close()
    assert [len(heard.outcomes) for heard in both] == [20, 20]
    assert most <= 2


async def test_a_room_lets_in_by_turns_and_what_is_larger_alone() -> None:
    budget, inside = ByteBudget(10), []

    async def enter(size_bytes: int) -> None:
        await budget.enter(size_bytes)
        inside.append(size_bytes)

    async def settled() -> list[int]:
        for _ in range(3):
            await asyncio.sleep(0)
        return inside

    entering = [asyncio.create_task(enter(size_bytes)) for size_bytes in (6, 30, 5, 4, 1)]
    assert await settled() == [6]
    entering[1].cancel()
    assert await settled() == [6]
    budget.leave(6)
    assert await settled() == [6, 5, 4, 1]
    alone = asyncio.create_task(enter(30))
    for size_bytes in (5, 4):
        budget.leave(size_bytes)
        assert 30 not in await settled()
    budget.leave(1)
    assert (await settled())[-1] == 30
    await alone


@pytest.mark.parametrize(
    ("scripted", "complaint"),
    [
        (Scripted(stream=stream_of(_result), ready=False), "model 'm' is not there, or not ready"),
        (Scripted(stream=stream_of(_result), live=False), "the server says that it is not live"),
        (Scripted(), r"it has no streams; kserve://127.0.0.1:\d+\?calls=unary sends a call for each frame"),
    ],
    ids=["not ready", "not live", "no streams"],
)
async def test_a_target_that_cannot_be_used_is_told_so(scripted: Scripted, complaint: str) -> None:
    async with scripted.serving() as (address, _), KserveTarget(address) as target:
        with pytest.raises(TargetError, match=complaint):
            await target.connection(SENSOR, SESSION, None, Heard()).open()


async def test_nobody_there_and_somebody_else_there(tmp_path: Path) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with KserveTarget(parse_address(f"kserve://127.0.0.1:{port}")) as target:
            with pytest.raises(TargetError, match="does not speak the KServe v2 protocol"):
                await target.inputs("m")
    finally:
        await server.stop(None)
    for address in (f"kserve://127.0.0.1:{port}", f"kserve+unix:{tmp_path}/nobody.sock"):
        async with KserveTarget(parse_address(address)) as target:
            with pytest.raises(TargetError, match=f"^{re.escape(address)}: can't be reached: UNAVAILABLE"):
                await target.inputs("m")


async def test_encoded_payloads_are_refused_at_open() -> None:
    async with Scripted(stream=stream_of(_result)).serving() as (address, _), KserveTarget(address) as target:
        connection = target.connection(SENSOR, SESSION, "JPEG", Heard())
        with pytest.raises(TargetError, match="takes tensors only, stream 's' has payloads in JPEG"):
            await connection.open()
        await connection.close()


def described(*inputs: tuple[str, str, tuple[int, ...]]) -> KserveModel:
    metadata = kserve_proto.ModelMetadataResponse()
    for name, datatype, shape in inputs:
        metadata.inputs.add(name=name, datatype=datatype, shape=shape)
    return KserveModel(metadata.SerializeToString(), "m")


@pytest.mark.parametrize(
    ("shapes", "batched", "left"),
    [
        ([(-1, 4)], True, [(4,)]),
        ([(-1, 4), (-1, -1, 2)], True, [(4,), (-1, 2)]),
        ([(1, 4)], False, [(1, 4)]),
        ([(-1,)], False, [(-1,)]),  # as long as you like, not a batch of single numbers
        ([(-1, 4), (1, 2)], False, [(-1, 4), (1, 2)]),
        ([], True, []),
    ],
)
def test_a_free_first_dimension_of_all_inputs_is_the_batch(
    shapes: list[tuple[int, ...]], batched: bool, left: list[tuple[int, ...]]
) -> None:
    model = described(*((f"x{nth}", "FP32", shape) for nth, shape in enumerate(shapes)))
    assert model.batched is batched
    assert [spec.shape for spec in model.inputs] == left


@BOTH
async def test_a_request_carries_its_streams_terms_where_duly_takes_them(options: str) -> None:
    server = Scripted(infer_of(_dropped), stream_of(lambda request: _in_stream(_dropped(request))))
    heard = Heard()
    more = f"{options}{'&' if options else '?'}terms=duly"
    async with server.serving(more) as (address, _), opened(address, heard) as connection:
        await send_all(connection, range(1))
        await connection.finish()
    said = server.requests[-1].parameters
    assert said["budget_us"].int64_param == BUDGET_NS // 1000
    assert said["capture_time_us"].int64_param == FAR_NS // 1000
    assert said["priority"].int64_param == 2
    assert said["backlog"].string_param == "LATEST"
    assert said["duly_outcomes"].bool_param
    assert "period_us" not in said
    assert "timeout" not in said
    assert heard.outcomes == {0: FrameOutcome.EXPIRED}, "an answer without outputs, and no error"


def _dropped(request: Any) -> Any:
    result = kserve_proto.ModelInferResponse(model_name="m", id=request.id)
    result.parameters["duly_outcome"].string_param = "EXPIRED"
    result.parameters["triton_final_response"].bool_param = True
    return result


def _in_stream(result: Any) -> Any:
    return kserve_proto.ModelStreamInferResponse(infer_response=result)


def infer_of(answer: Answer) -> Callable[[Any, Any], Awaitable[Any]]:
    async def infer(request: Any, _: Any) -> Any:
        return answer(request)

    return infer


def test_inputs_that_hold_no_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="input 'text' of model 'm' takes BYTES; this generator sends numbers only"):
        described(("text", "BYTES", (-1, 1)))


def test_payloads_of_several_inputs_keep_contents_and_names_in_one_order() -> None:
    model = described(("x", "FP32", (-1, 4)), ("n", "INT64", (-1, 1)))
    payload: Payload = {"n": np.array([7]), "x": FRAME}
    for nth in (1, 2):
        request = kserve_proto.ModelInferRequest.FromString(model.request(nth, payload))
        assert request.id == str(nth)
        assert [(tensor.name, list(tensor.shape)) for tensor in request.inputs] == [("n", [1, 1]), ("x", [1, 4])]
        assert list(request.raw_input_contents) == [np.array([7]).tobytes(), FRAME.tobytes()]


def test_arrays_that_are_not_contiguous_go_out_in_row_major_order() -> None:
    turned = np.arange(6, dtype=np.uint8).reshape(2, 3).T
    request = kserve_proto.ModelInferRequest.FromString(described(("x", "UINT8", (3, 2))).request(0, turned))
    assert request.raw_input_contents[0] == bytes([0, 3, 1, 4, 2, 5])


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (b"\xff\xd8", "input 'x': should be an array of .*, is bytes"),
        (np.zeros(4, np.complex64), "is complex64"),
        ({"y": FRAME}, "takes x: got a payload of y"),
    ],
)
def test_payloads_that_are_not_the_models_are_refused(payload: Payload, complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        described(("x", "FP32", (-1, 4))).request(0, payload)


def test_a_bare_array_is_no_payload_of_two_inputs() -> None:
    with pytest.raises(TypeError, match="takes x, n: a payload should name each"):
        described(("x", "FP32", (-1, 4)), ("n", "INT64", (-1, 1))).request(0, FRAME)


def test_heads_are_kept_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duly_load.protocols.kserve_messages.HEADS_MAX", 2)
    model = described(("x", "UINT8", (-1, 1)))
    payloads: list[Payload] = [np.array([value], np.uint8) for value in range(5)]
    for nth, payload in enumerate([*payloads, *reversed(payloads)]):
        request = kserve_proto.ModelInferRequest.FromString(model.request(nth, payload))
        assert list(request.raw_input_contents) == [np.asarray(payload).tobytes()]


def test_the_text_says_more_than_the_code() -> None:
    assert outcome_of_error("Request for unknown model", grpc.StatusCode.UNAVAILABLE) is FrameOutcome.FAILED
    assert outcome_of_error("", grpc.StatusCode.UNAVAILABLE) is FrameOutcome.SHED
    assert outcome_of_error("") is FrameOutcome.FAILED


def test_the_messages_leave_the_package_free_for_other_copies() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
