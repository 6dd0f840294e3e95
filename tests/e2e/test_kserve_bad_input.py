"""What a client of KServe's protocol can get wrong: each mistake is named, in a status or in a reply of its stream, and
whoever calls beside is served as before.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import psutil
import pytest
import pytest_asyncio

from duly.app import App
from duly.rpc.kserve import inference_service, stream_call
from duly.rpc.kserve import messages as ks
from tests import graphs
from tests.e2e.kserve_wire import SERVICE, StreamWire, Value, infer, numbers, put, refused, request, until
from tests.e2e.serving import serving
from tests.e2e.wire import ON_TIME, Wire, frame

pytestmark = pytest.mark.asyncio(loop_scope="module")

Wrong = Callable[[ks.ModelInferRequest], object]
HUGE = (1 << 63) - 1


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def bystanders(shared_server: App, shared_channel: grpc.aio.Channel) -> AsyncIterator[None]:
    """Well-behaved clients of both protocols, served after each test as before it. Nothing is left with the server."""
    async with Wire(shared_channel, model="double") as wire, StreamWire(shared_channel) as kserve:
        assert (await wire.ask(frame(1))).status == ON_TIME
        await kserve.send(request("double", [[1, 2, 3, 4]], "before"))
        assert not (await kserve.reply("before")).error_message
        yield
        assert (await wire.ask(frame(1_000))).status == ON_TIME
        await kserve.send(request("double", [[1, 2, 3, 4]], "after"))
        assert not (await kserve.reply("after")).error_message
        await wire.finish()
        await kserve.finish()
    await until(lambda: nothing_left(shared_server))


def nothing_left(app: App) -> bool:
    assert app.kserve is not None
    memory = app.streams.host.memory
    counts = (app.kserve.sequences, len(app.streams), len(app.driver.held), app.driver.held.bytes)
    return not any((*counts, memory.outcomes, memory.result_bytes))


def good(request_id: str = "r1", **parameters: Value) -> ks.ModelInferRequest:
    return request("double", [[1, 2, 3, 4]], request_id, **parameters)


@pytest.mark.parametrize("version", ["-1", "9" * 100_000, "one", "1.0", " 1"])
async def test_a_version_that_is_no_number_is_named(shared_channel: grpc.aio.Channel, version: str) -> None:
    asked = good()
    asked.model_version = version
    assert (await told(shared_channel, asked)).startswith("[request id: r1] version: should be a number such as '1'")


async def told(
    channel: grpc.aio.Channel, asked: ks.ModelInferRequest, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT
) -> str:
    """Returns what is said of a request that is wrong: the same to a call of its own and within a stream, which goes on
    afterwards.
    """
    error = await refused(infer(channel, asked))
    assert error.code() is code, error.details()
    async with StreamWire(channel) as wire:
        await wire.send(good("before"), asked, good("after"))
        reply = await wire.reply(asked.id)
        assert len(reply.infer_response.outputs) == 0
        for each in ("before", "after"):
            assert numbers((await wire.reply(each)).infer_response) == [2, 4, 6, 8]
        await wire.finish()
        assert (await wire.status())[0] is grpc.StatusCode.OK
    assert reply.error_message.isprintable()
    details = str(error.details())
    assert reply.error_message[:200] == details[:200]
    assert len(details) <= 1000 + 160
    return details


# ---- parameters ----

WRONG_TYPES: dict[str, tuple[str, tuple[Value, ...]]] = {
    "timeout": ("an int64 or uint64", ("5", True, 1.5, None)),
    "budget_us": ("an int64 or uint64", ("5", True, 1.5, None)),
    "priority": ("an int64 or uint64", ("1", True, 1.5, None)),
    "period_us": ("an int64 or uint64", ("1", True, 1.5, None)),
    "capture_time_us": ("an int64 or uint64", ("1", True, 1.5, None)),
    "backlog": ("a string", (1, True, 1.5, None)),
    "sequence_id": ("an int64, a uint64 or a string", (True, 1.5, None)),
    "sequence_start": ("a bool", (1, "true", 1.5, None)),
    "sequence_end": ("a bool", (1, "true", 1.5, None)),
    "duly_outcomes": ("a bool", (1, "true", 1.5, None)),
    "triton_enable_empty_final_response": ("a bool", (1, "true", 1.5, None)),
}


@pytest.mark.parametrize("name", WRONG_TYPES)
async def test_a_parameter_of_a_wrong_type_is_named(shared_channel: grpc.aio.Channel, name: str) -> None:
    expected, values = WRONG_TYPES[name]
    for value in values:
        asked = good(**{name: value})
        asked.parameters[name].SetInParent()
        got = {str: "string", bool: "bool", float: "double", int: "int64", type(None): "nothing"}[type(value)]
        said = await told(shared_channel, asked)
        assert said == f"[request id: r1] parameter '{name}' should be {expected}, got {got}"


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"budget_us": -5}, "parameter 'budget_us' should be 0 to 9223372036854774, got -5"),
        ({"triton_wishes": 1}, "parameter 'triton_wishes' is unknown"),
        ({"timeout": HUGE}, "parameter 'timeout' should be 0 to "),
        ({"priority": -1}, "parameter 'priority' should be 0 to 18446744073709551615, got -1"),
        ({"period_us": -1}, "parameter 'period_us' should be 0 to"),
        ({"capture_time_us": HUGE}, "parameter 'capture_time_us' should be 0 to"),
        ({"backlog": "NEWEST"}, "parameter 'backlog' should be ALL, LATEST or KEEP_LAST:n, got 'NEWEST'"),
        ({"backlog": "KEEP_LAST:" + "9" * 5000}, "parameter 'backlog' should be ALL, LATEST or KEEP_LAST:n, got"),
        ({"backlog": "KEEP_LAST:0"}, "parameter 'backlog' "),
        ({"sequence_id": "s" * 129}, "parameter 'sequence_id' has 129 characters, at most 128 are taken"),
        ({"sequence_start": True}, "parameter 'sequence_start' is true, but there is no sequence_id"),
        ({"sequence_end": True, "sequence_id": 0}, "parameter 'sequence_end' is true, but there is no sequence_id"),
        ({f"p{n}": n for n in range(65)}, "parameters are 65, at most 64 are taken"),
        ({f"p{n}": n for n in range(10_000)}, "parameters are 10000, at most 64 are taken"),
    ],
)
async def test_a_parameter_without_meaning_is_named(
    shared_channel: grpc.aio.Channel, parameters: dict[str, Value], says: str
) -> None:
    assert (await told(shared_channel, good(**parameters))).startswith(f"[request id: r1] {says}")


# ---- names ----


@pytest.mark.parametrize(
    ("model", "version", "says"),
    [
        ("dobule", "", "there is no model 'dobule'; there are: double, sum"),
        ("", "", "there is no model ''"),
        ("m" * 1_000_000, "", "there is no model 'mmmm"),
        ("double", "7", "model 'double' has no version '7' loaded; loaded are: 1"),
    ],
)
async def test_an_unknown_model_or_version_is_not_found(
    shared_channel: grpc.aio.Channel, model: str, version: str, says: str
) -> None:
    asked = good()
    asked.model_name, asked.model_version = model, version
    assert (await told(shared_channel, asked, grpc.StatusCode.NOT_FOUND)).startswith(f"[request id: r1] {says}")


async def test_an_id_is_bounded_and_only_its_beginning_comes_back(shared_channel: grpc.aio.Channel) -> None:
    asked = good("i" * 1_000_000)
    error = await refused(infer(shared_channel, asked))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    expected = f"[request id: {'i' * 128}...] id has 1000000 characters, at most 1024 are taken"
    assert error.details() == expected
    async with StreamWire(shared_channel) as wire:
        await wire.send(asked, good("i" * 1024))
        first, second = "i" * 1024, "i" * 1024
        while len(wire.replies.get(first, ())) < 2:
            assert await wire.read()
        assert sorted(reply.error_message for reply in wire.replies[second]) == ["", expected]
        await wire.finish()


# ---- what is in the request ----


def _shape(*extents: int) -> Wrong:
    def set_shape(asked: ks.ModelInferRequest) -> None:
        asked.inputs[0].shape[:] = extents

    return set_shape


def _raw(data: bytes | None, *more: bytes) -> Wrong:
    def set_raw(asked: ks.ModelInferRequest) -> None:
        asked.raw_input_contents[:] = [] if data is None else [data, *more]

    return set_raw


def _contents(field: str, *values: object, raw: bool = False) -> Wrong:
    def set_contents(asked: ks.ModelInferRequest) -> None:
        if not raw:
            del asked.raw_input_contents[:]
        getattr(asked.inputs[0].contents, field).extend(values)

    return set_contents


def _inputs(*names: str) -> Wrong:
    def set_inputs(asked: ks.ModelInferRequest) -> None:
        raw = asked.raw_input_contents[0]
        del asked.inputs[:], asked.raw_input_contents[:]
        for name in names:
            asked.inputs.add(name=name, datatype="FP32", shape=[1, 4])
            if len(names) < 100:
                asked.raw_input_contents.append(raw)

    return set_inputs


def _outputs(*names: str, **parameters: Value) -> Wrong:
    def set_outputs(asked: ks.ModelInferRequest) -> None:
        for name in names:
            put(asked.outputs.add(name=name).parameters, **parameters)

    return set_outputs


def _datatype(datatype: str) -> Wrong:
    return lambda asked: setattr(asked.inputs[0], "datatype", datatype)


def _of_input(**parameters: Value) -> Wrong:
    return lambda asked: put(asked.inputs[0].parameters, **parameters)


WRONG: dict[str, tuple[Wrong, str]] = {
    "no batch": (_shape(4), "input 'x': shape [4], the model takes [-1, 4]"),
    "no shape": (_shape(), "input 'x': shape [], the model takes [-1, 4]"),
    "a wrong extent": (_shape(1, 5), "input 'x': shape [1, 5], the model takes [-1, 4]"),
    "no rows": (_shape(0, 4), "input 'x': shape [0, 4], the model takes [-1, 4]"),
    "negative rows": (_shape(-1, 4), "input 'x': shape [-1, 4], the model takes [-1, 4]"),
    "a negative extent": (_shape(1, -4), "input 'x': shape [1, -4], the model takes [-1, 4]"),
    "huge rows": (_shape(HUGE, 4), f"input 'x': shape [{HUGE}, 4], the model takes [-1, 4] with at most "),
    "huge extents": (_shape(HUGE, HUGE), "input 'x': shape ["),
    "100,000 extents": (_shape(*[1] * 100_000), "input 'x': 100000 dimensions, at most "),
    "more rows than bytes": (_shape(2, 4), "input 'x': 8 bytes, FP32[4] takes 16"),
    "rows that do not divide": (_shape(3, 4), "input 'x': 16 bytes are no 3 rows of equal length"),
    "rows without bytes": (lambda asked: (_shape(3, 4)(asked), _raw(b"")(asked)), "input 'x': 0 bytes, FP32[4] takes"),
    "too few bytes": (_raw(bytes(15)), "input 'x': 15 bytes, FP32[4] takes 16"),
    "too many bytes": (_raw(bytes(17)), "input 'x': 17 bytes, FP32[4] takes 16"),
    "no bytes": (_raw(b""), "input 'x': 0 bytes, FP32[4] takes 16"),
    "a million bytes": (_raw(bytes(1_000_000)), "input 'x': 1000000 bytes, FP32[4] takes 16"),
    "no data": (_raw(None), "input 'x': 0 bytes, FP32[4] takes 16"),
    "one raw entry more": (_raw(bytes(16), bytes(16)), "raw_input_contents has 2 entries, 1 inputs have their data"),
    "10,000 raw entries more": (_raw(bytes(16), *[b""] * 10_000), "raw_input_contents has 10001 entries, 1 inputs"),
    "another datatype": (_datatype("INT32"), "input 'x': datatype INT32, the model takes FP32"),
    "no datatype": (_datatype(""), "input 'x': there is no datatype ''; there are: BOOL,"),
    "a datatype of a megabyte": (_datatype("F" * 1_000_000), "input 'x': there is no datatype 'FFFF"),
    "no inputs": (_inputs(), "input 'x' is missing; the model takes 'x'"),
    "an unknown input": (_inputs("y"), "there is no input 'y'; the model takes 'x'"),
    "an input twice": (_inputs("x", "x"), "2 inputs, the model takes 1"),
    "10,000 inputs": (_inputs(*["x"] * 10_000), "10000 inputs, the model takes 1"),
    "raw and contents": (
        _contents("fp32_contents", 1, 2, 3, 4, raw=True),
        "input 'x': its data is both in contents and in raw_input_contents; it should be in one",
    ),
    "contents in another list": (
        _contents("int_contents", 1, 2, 3, 4),
        "input 'x': its elements are in int_contents, those of FP32 go in fp32_contents",
    ),
    "too few elements": (_contents("fp32_contents", 1, 2, 3), "input 'x': 12 bytes, FP32[4] takes 16"),
    "too many elements": (
        _contents("fp32_contents", *[1] * 2000),
        "input 'x': the elements in fp32_contents take 8000 bytes, at most ",
    ),
    "bytes for numbers": (_contents("bytes_contents", b"1", b""), "input 'x': its elements are in bytes_contents"),
    "an unknown output": (_outputs("z"), "outputs: there is no output 'z'; there are: 'y'"),
    "an output twice": (_outputs("y", "y"), "outputs: 'y' is there twice"),
    "10,000 outputs": (_outputs(*["y"] * 10_000), "outputs: 'y' is there twice"),
    "an output of a megabyte": (_outputs("o" * 1_000_000), "outputs: there is no output 'oooo"),
    "classes of a wrong type": (_outputs("y", classification="3"), "parameter 'classification' should be an int64"),
    "negative classes": (_outputs("y", classification=-1), "parameter 'classification' should be"),
    "65 parameters of an output": (
        _outputs("y", **{f"p{n}": n for n in range(65)}),
        "output 'y' has 65 parameters, at most 64",
    ),
    "65 parameters of an input": (
        _of_input(**{f"p{n}": n for n in range(65)}),
        "input 'x' has 65 parameters, at most 64",
    ),
    "a region of a wrong type": (
        _of_input(shared_memory_region=5, shared_memory_byte_size=16),
        "parameter 'shared_memory_region' should be a string, got int64",
    ),
    "a size of a wrong type": (
        _of_input(shared_memory_region="a", shared_memory_byte_size="16"),
        "input 'x', region 'a': parameter 'shared_memory_byte_size' should be an int64 or uint64, got string",
    ),
    "a region without size": (
        _of_input(shared_memory_region="a"),
        "input 'x': parameter 'shared_memory_region' is there",
    ),
    "a size without region": (
        _of_input(shared_memory_byte_size=1),
        "input 'x': parameter 'shared_memory_byte_size' is",
    ),
    "a negative offset": (
        _of_input(shared_memory_region="a", shared_memory_byte_size=16, shared_memory_offset=-1),
        "input 'x', region 'a': parameter 'shared_memory_offset' should be 0 to 9223372036854775807, got -1",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_request_that_does_not_fit_is_told_where(shared_channel: grpc.aio.Channel, wrong: str) -> None:
    asked = good()
    change, says = WRONG[wrong]
    change(asked)
    said = (await told(shared_channel, asked)).removeprefix("[request id: r1] ").removeprefix("INVALID: ")
    assert said.startswith(says), said[:300]


@pytest.mark.parametrize(
    ("kind", "datatype", "field", "value"),
    [
        ("int8", "INT8", "int_contents", 128),
        ("int16", "INT16", "int_contents", -32769),
        ("uint8", "UINT8", "uint_contents", 256),
        ("uint16", "UINT16", "uint_contents", 1 << 16),
    ],
)
async def test_an_element_out_of_its_range_is_told(
    tmp_path: Path, kind: str, datatype: str, field: str, value: int
) -> None:
    graphs.save(tmp_path, kind, graphs.copying(("N", 2), getattr(graphs.onnx.TensorProto, datatype)))
    async with serving(tmp_path) as app, grpc.aio.insecure_channel(app.address) as channel:
        asked = ks.ModelInferRequest(model_name=kind, id="r1")
        getattr(asked.inputs.add(name="x", datatype=datatype, shape=[1, 2]).contents, field).extend([0, value])
        error = await refused(infer(channel, asked))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert str(error.details()).endswith(f"input 'x': an element in {field} is no {datatype}")


TEXTS = {
    "a length that lies": b"\x05\0\0\0ab" + b"\0\0\0\0",
    "a length of 4 GiB": b"\xff\xff\xff\xff" + bytes(4),
    "half a length": b"\x01\0\0\0a" + b"\x01\0",
    "one text too few": b"\x01\0\0\0a",
    "one text too many": b"\x01\0\0\0a" * 3,
    "no texts": b"",
}


async def test_texts_that_are_not_as_long_as_they_say_are_told(tmp_path: Path) -> None:
    graphs.save(tmp_path, "text", graphs.copying(("N", 2), graphs.onnx.TensorProto.STRING))
    async with serving(tmp_path) as app, grpc.aio.insecure_channel(app.address) as channel:
        asked = ks.ModelInferRequest(model_name="text", id="r1")
        asked.inputs.add(name="x", datatype="BYTES", shape=[1, 2])
        asked.raw_input_contents.append(b"\x01\0\0\0a" + b"\x02\0\0\0bc")
        reply = await infer(channel, asked)
        assert reply.raw_output_contents == asked.raw_input_contents
        asked.inputs[0].shape[:] = [2, 2]
        asked.raw_input_contents[0] += b"\x05\0\0\0dings\0\0\0\0"
        reply = await infer(channel, asked)
        assert (list(reply.outputs[0].shape), reply.raw_output_contents) == ([2, 2], asked.raw_input_contents)
        for what, data in TEXTS.items():
            for rows in (1, 2):
                asked.inputs[0].shape[:] = [rows, 2]
                asked.raw_input_contents[0] = data
                error = await refused(infer(channel, asked))
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, what
                assert "input 'x'" in str(error.details()), what
        asked.raw_input_contents.pop()
        asked.inputs[0].shape[:] = [1, 2]
        for texts in ([b"a"], [b"a"] * 3, [b"a"] * 5000):
            asked.inputs[0].contents.bytes_contents[:] = texts
            error = await refused(infer(channel, asked))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            told = f"input 'x': {len(texts)} elements in bytes_contents, BYTES[1, 2] takes 2"
            assert str(error.details()).endswith(told)
        asked.inputs[0].contents.bytes_contents[:] = [b"a", b"bc"]
        assert await infer(channel, asked)


# ---- messages ----

NO_MESSAGES = {
    "noise": b"\xff" * 30,
    "cut off": good().SerializeToString()[:-3],
    "a field that lies about its length": b"\x0a\x7fdouble",
    "text that is none": b"\x0a\x02\xff\xfe",
    "groups without end": b"\x0b" * 5000,
    "noise of a megabyte": b"\xff" * 1_000_000,
    "a million empty inputs": b"\x2a\x00" * 1_000_000,
    "a million extents": b"\x0a\x06double\x2a\xc4\x84\x3d\x1a\xc0\x84\x3d" + b"\x01" * 1_000_000,
}


@pytest.mark.parametrize("which", NO_MESSAGES)
async def test_a_message_that_is_no_request_ends_its_call_alone(shared_channel: grpc.aio.Channel, which: str) -> None:
    message = NO_MESSAGES[which]
    error = await refused(infer(shared_channel, message))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    async with StreamWire(shared_channel) as wire:
        await wire.send(good("before"))
        await wire.reply("before")
        await wire.send(message)
        assert not await wire.read()
        assert await wire.status() == (grpc.StatusCode.INVALID_ARGUMENT, error.details())


async def test_an_empty_message_asks_for_no_model(shared_channel: grpc.aio.Channel) -> None:
    assert (await refused(infer(shared_channel, b""))).code() is grpc.StatusCode.NOT_FOUND
    async with StreamWire(shared_channel) as wire:
        await wire.send(b"", b"", good("after"))
        assert not (await wire.reply("after")).error_message
        await wire.finish()
        assert [reply.error_message for reply in wire.replies[""]] == [
            "[request id: <id_unknown>] there is no model ''; there are: double, sum"
        ] * 2


async def test_a_stream_without_requests_ends_well(shared_channel: grpc.aio.Channel) -> None:
    async with StreamWire(shared_channel) as wire:
        await wire.finish()
        assert (await wire.status())[0] is grpc.StatusCode.OK
        assert not wire.replies


async def test_requests_before_a_half_close_are_all_answered(shared_channel: grpc.aio.Channel) -> None:
    async with StreamWire(shared_channel) as wire:
        await wire.send(*(good(f"r{n}") for n in range(100)))
        await wire.finish()
        assert {name: len(replies) for name, replies in wire.replies.items()} == {f"r{n}": 1 for n in range(100)}
        assert (await wire.status())[0] is grpc.StatusCode.OK


# ---- calls that misbehave as calls ----


async def test_sequences_that_never_end_are_bounded_in_a_stream(
    shared_server: App, shared_channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_call, "STREAMS_MAX", 8)
    async with StreamWire(shared_channel) as wire:
        for sequence in range(1, 21):
            asked = request("sum", [[1, 1]], f"s{sequence}", sequence_id=sequence, sequence_start=True)
            await wire.send(asked)
            reply = await wire.reply(f"s{sequence}")
            assert bool(reply.error_message) == (sequence > 8)
        assert "the call has 8 streams and sequences already; end a sequence" in reply.error_message
        await wire.send(request("sum", [[1, 1]], "anew", sequence_id=2, sequence_start=True))
        assert not (await wire.reply("anew")).error_message, "one that begins anew has its place already"
        await wire.send(request("sum", [[1, 1]], "end", sequence_id=1, sequence_end=True))
        await wire.reply("end")
        await wire.send(request("sum", [[1, 1]], "next", sequence_id=30, sequence_start=True))
        assert not (await wire.reply("next")).error_message
        await wire.finish()


async def test_terms_without_end_are_bounded_in_a_stream(shared_server: App, shared_channel: grpc.aio.Channel) -> None:
    """Each period asks for a stream of its own; one that is idle gives way."""
    before = len(shared_server.streams)
    async with StreamWire(shared_channel) as wire:
        for period in range(300):
            await wire.send(good(f"p{period}", period_us=1_000_000 + period))
            await wire.reply(f"p{period}")
        assert len(shared_server.streams) - before <= stream_call.STREAMS_MAX
        await wire.finish()


@pytest.mark.parametrize("turns", range(0, 30, 3))
async def test_a_stream_that_is_cancelled_in_any_state_leaves_nothing(
    shared_channel: grpc.aio.Channel, turns: int
) -> None:
    for requests in (0, 1, 40):
        wire = StreamWire(shared_channel)
        for n in range(requests):
            await wire.send(good(f"r{n}") if n % 3 else request("nothing", [[1]], f"r{n}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        wire.call.cancel()
        assert (await wire.status())[0] is grpc.StatusCode.CANCELLED


async def test_deadlines_of_calls_end_them_and_leave_nothing(shared_channel: grpc.aio.Channel) -> None:
    async with StreamWire(shared_channel, timeout=0.2) as wire:
        await wire.send(good("r1"))
        await wire.reply("r1")
        assert not await wire.read()
        assert (await wire.status())[0] is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_calls_without_a_stream_give_way_to_others(
    shared_server: App, shared_channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand calls that ask nothing are bounded, and keep nobody out."""
    kserve = shared_server.kserve
    assert kserve is not None
    monkeypatch.setattr(kserve._places, "places", 40)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(shared_server.address, options=options) as channel:
        calls = [StreamWire(channel) for _ in range(1000)]
        ends: list[grpc.StatusCode] = []
        for wire in calls:
            asyncio.ensure_future(wire.call.code()).add_done_callback(lambda code: ends.append(code.result()))
        await until(lambda: len(ends) >= 960)
        assert set(ends) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert len(kserve._calls) <= 41
        async with StreamWire(shared_channel) as wire:
            await wire.send(good("let in"))
            assert not (await wire.reply("let in")).error_message
            await wire.finish()
        for wire in calls:
            wire.call.cancel()
        await until(lambda: len(kserve._calls) == 1)


async def test_who_does_not_read_is_ended_and_holds_no_memory(tmp_path: Path) -> None:
    """Replies of a megabyte each: what waits for the client is bounded, then its call ends."""
    graphs.save(tmp_path, "wide", graphs.scaling(width=262_144), toml="batch_sizes = [1]\n")
    async with (
        serving(tmp_path, slow_reader_timeout_s=1.0) as app,
        grpc.aio.insecure_channel(app.address, options=[("grpc.max_receive_message_length", -1)]) as channel,
    ):
        process = psutil.Process()
        asked = request("wide", [[1.0] * 262_144], "big", timeout=20_000_000)
        assert await infer(channel, asked)
        before = process.memory_info().rss
        wire = StreamWire(channel)
        sending = asyncio.ensure_future(_send_for_ever(wire, asked))
        await until(lambda: app._doors.gate.failed["CLIENT_TOO_SLOW"])
        assert process.memory_info().rss - before < 600 << 20
        await until(lambda: nothing_left(app))
        wire.call.cancel()
        await asyncio.wait([sending])


async def test_who_asks_wrongly_and_does_not_read_is_ended(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.scaling())
    async with (
        serving(tmp_path, slow_reader_timeout_s=1.0) as app,
        grpc.aio.insecure_channel(app.address) as channel,
    ):
        wire = StreamWire(channel)
        sending = asyncio.ensure_future(_send_for_ever(wire, request("x" * 900, [[1]], "i" * 1000)))
        await until(lambda: app._doors.gate.failed["CLIENT_TOO_SLOW"])
        await until(lambda: nothing_left(app))
        wire.call.cancel()
        await asyncio.wait([sending])


async def _send_for_ever(wire: StreamWire, asked: ks.ModelInferRequest) -> None:
    """Sends without reading, until the call ends."""
    message = asked.SerializeToString()
    try:
        while not wire.call.done():
            await wire.send(message)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass


async def test_a_stream_without_requests_is_told_of_a_drain(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.scaling())
    async with serving(tmp_path) as app, grpc.aio.insecure_channel(app.address) as channel:
        async with StreamWire(channel) as idle, StreamWire(channel) as used:
            await used.send(good("r1"))
            await used.reply("r1")
            await until(lambda: app.kserve is not None and len(app.kserve._calls) == 2)
            began_s = time.monotonic()
            await app.drain()
            for wire in (idle, used):
                assert not await wire.read()
                code, text = await wire.status()
                assert (code, "the server has stopped" in text) == (grpc.StatusCode.UNAVAILABLE, True)
            assert time.monotonic() - began_s < 5
        await until(lambda: nothing_left(app))


async def test_requests_that_come_while_the_server_drains_are_refused_one_by_one(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.slow(rounds=20), toml="batch_sizes = [1]\n")
    graphs.save(tmp_path, "double", graphs.scaling())
    async with (
        serving(tmp_path) as app,
        grpc.aio.insecure_channel(app.address) as channel,
        StreamWire(channel) as wire,
    ):
        slow = ks.ModelInferRequest(model_name="m", id="slow")
        slow.inputs.add(name="x", datatype="FP32", shape=[1, 1, 1]).contents.fp32_contents.append(1)
        await wire.send(*[slow] * 20)
        await until(lambda: len(app.driver.held))
        draining = app.drain()
        await wire.send(good("late"))
        reply = await wire.reply("late")
        assert "drain" in reply.error_message
        await draining
        while await wire.read():
            pass
        assert len(wire.replies["slow"]) == 20, "each is answered, by a result or by a refusal"
        assert (await wire.status())[0] is grpc.StatusCode.UNAVAILABLE


async def test_a_call_of_another_kind_of_message_is_refused(shared_channel: grpc.aio.Channel) -> None:
    """ModelStreamInfer called as a unary method, and a method that is not there."""
    unary = shared_channel.unary_unary(f"{SERVICE}/ModelStreamInfer")
    assert await unary(good().SerializeToString())
    unknown = shared_channel.unary_unary(f"{SERVICE}/ModelInferAll")
    assert (await refused(unknown(b""))).code() is grpc.StatusCode.UNIMPLEMENTED
    assert inference_service.CALLS_BESIDE_STREAMS_MAX == 128
