"""`duly stream` as a user meets it: its own process, its exit status, its two outputs."""

import json
import signal
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest

from duly.v1 import inference_pb2, tensor_pb2
from tests.client.duly_stream import answering, finished, start, stream, tensor
from tests.client.scripted_server import OpenedStream, ScriptedServer, echo, on_time, refuse, serving


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    path = tmp_path / "imu.npy"
    np.save(path, np.zeros((5, 4), np.float32))
    return path


async def test_each_outcome_is_a_line_and_the_end_a_summary(arrays: Path) -> None:
    async def every_second(stream: OpenedStream) -> None:
        await stream.greet()
        async for frame in stream.frames():
            superseded = inference_pb2.OUTCOME_STATUS_SUPERSEDED
            dropped = inference_pb2.Outcome(frame_id=frame.frame_id, status=superseded, reason="a newer one came")
            await stream.answer(dropped if frame.frame_id % 2 == 0 else on_time(frame))

    status, lines, errors = await stream(every_second, "--input", arrays, "--rate", 200, "--class", "CRITICAL")
    assert status == 0, errors
    assert len(lines) == 6
    assert lines[0].startswith("frame 1  on time  ")
    assert lines[0].endswith(" ms  y float32[4]")
    assert lines[1] == "frame 2  superseded  (a newer one came)"
    assert lines[5].startswith("5 frames sent: 3 on time, 2 superseded; latency p50 ")
    assert errors.startswith(f"{arrays}: 5 arrays float32[4], every 5 ms, to model version 3 at 127.0.0.1:")


@pytest.mark.parametrize("as_json", [False, True])
async def test_what_guards_found_is_shown_and_counted(arrays: Path, as_json: bool) -> None:
    async def guarded(stream: OpenedStream) -> None:
        await stream.greet()
        async for frame in stream.frames():
            outcome = on_time(frame)
            outcome.guards.extend({2: ["frozen"], 3: ["frozen", "blank"]}.get(frame.frame_id, []))
            await stream.answer(outcome)

    status, lines, errors = await stream(guarded, "--input", arrays, "--rate", 200, *(["--json"] if as_json else []))
    assert status == 0, errors
    if as_json:
        *outcomes, summary = map(json.loads, lines)
        assert [outcome["guards"] for outcome in outcomes] == [[], ["frozen"], ["frozen", "blank"], [], []]
        assert summary["guards"] == {"blank": 1, "frozen": 2}
    else:
        assert lines[0].endswith("y float32[4]")
        assert lines[2].endswith("y float32[4]  [frozen, blank]")
        assert lines[5].startswith("5 frames sent: 5 on time; blank on 1; frozen on 2; latency p50 ")


async def test_detections_are_named(arrays: Path) -> None:
    script = answering(
        tensor("boxes", np.zeros((3, 4), np.float32), tensor_pb2.DATA_TYPE_FP32),
        tensor("scores", np.array([0.87, 0.69, 0.5], np.float32), tensor_pb2.DATA_TYPE_FP32),
        tensor("classes", np.array([0, 2, 7], np.int64), tensor_pb2.DATA_TYPE_INT64),
        outputs=[tensor_pb2.TensorSpec(name="classes", datatype=9, labels=["person", "cat", "car"])],
    )
    status, lines, _ = await stream(script, "--input", arrays, "--rate", 1000)
    assert status == 0
    assert lines[0].endswith(" ms  person 0.87, car 0.69, class 7 0.50")


async def test_a_probability_is_a_number(arrays: Path) -> None:
    probability = tensor("p", np.array([0.25], np.float32), tensor_pb2.DATA_TYPE_FP32)
    status, lines, _ = await stream(answering(probability), "--input", arrays, "--rate", 1000)
    assert status == 0
    assert lines[0].endswith(" ms  0.25")


async def test_json(arrays: Path) -> None:
    large = tensor("large", np.zeros((5, 500), np.uint8), tensor_pb2.DATA_TYPE_UINT8)
    small = tensor("small", np.array([[1, 2]], np.int16), tensor_pb2.DATA_TYPE_INT16)
    status, lines, _ = await stream(answering(large, small), "--input", arrays, "--rate", 1000, "--json")
    assert status == 0
    *outcomes, summary = map(json.loads, lines)
    assert [outcome["frame_id"] for outcome in outcomes] == [1, 2, 3, 4, 5]
    assert outcomes[0]["status"] == "ON_TIME"
    assert outcomes[0]["outputs"] == {"large": {"shape": [5, 500]}, "small": [[1, 2]]}
    assert (summary["sent"], summary["outcomes"]) == (5, {"ON_TIME": 5})
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]


async def test_json_where_numbers_are_none(arrays: Path) -> None:
    odd = tensor("odd", np.array([[0.5, np.nan], [np.inf, -np.inf]], np.float32), tensor_pb2.DATA_TYPE_FP32)
    _, lines, _ = await stream(answering(odd), "--input", arrays, "--rate", 1000, "--json")

    def none(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    outcome = json.loads(lines[0], parse_constant=none)
    assert outcome["outputs"] == {"odd": [[0.5, "NaN"], ["Infinity", "-Infinity"]]}


async def test_pictures_from_stdin() -> None:
    picture = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    spec = tensor_pb2.TensorSpec(datatype=tensor_pb2.DATA_TYPE_UINT8, shape=[-1, -1, 3], encoded_formats=[1])
    server = ScriptedServer(answering(inputs=[spec]))
    async with serving(server) as target:
        status, lines, errors = await finished(await start("m", "--server", target, "--input", "-"), picture * 3)
    assert (status, len(lines)) == (0, 4), errors
    assert [frame.encoded[0].data for frame in server.frames] == [picture] * 3
    assert errors.startswith("JPEG pictures from stdin, as they come, to m ")


async def test_sound_from_stdin() -> None:
    spec = tensor_pb2.TensorSpec(datatype=tensor_pb2.DATA_TYPE_FP32, shape=[-1], encoded_formats=[3])
    spec.sample_rate_hz = 8000
    server = ScriptedServer(answering(inputs=[spec]))
    async with serving(server) as target:
        status, lines, errors = await finished(await start("m", "--server", target, "--input", "-"), bytes(9000))
    assert (status, len(lines)) == (0, 18), errors
    chunks = [(len(frame.encoded[0].data), frame.encoded[0].format) for frame in server.frames]
    assert chunks == [(512, 3)] * (9000 // 512), "32 ms each"


async def test_frames_are_captured_when_they_are_due(arrays: Path) -> None:
    server = ScriptedServer(echo)
    async with serving(server) as target:
        await finished(await start("m", "--server", target, "--input", arrays, "--rate", 50))
    captured_ns = [frame.capture_time_unix_nano for frame in server.frames]
    assert np.diff(captured_ns).tolist() == [20_000_000] * 4
    assert server.opens[0].expected_period_nano == 20_000_000


async def test_it_sends_no_more_than_it_is_advised_to(arrays: Path) -> None:
    async def slowing(stream: OpenedStream) -> None:
        await stream.greet()
        await stream.advise(kind=inference_pb2.StreamAdvice.KIND_SLOW_DOWN, period_nano=3600 * 10**9)
        async for frame in stream.frames():
            await stream.answer(on_time(frame))

    status, lines, errors = await stream(slowing, "--input", arrays, "--rate", 500, "--follow-advice")
    assert (status, lines[-1]) == (0, "5 frames sent: 5 superseded"), errors
    assert lines[0] == "frame 1  superseded  (not sent, the server advised a period of 3.6e+06 ms)"


async def test_a_recording_may_be_repeated_for_a_time(arrays: Path) -> None:
    status, lines, errors = await stream(echo, "--input", arrays, "--rate", 500, "--repeat", "--seconds", 0.2)
    assert (status, errors.count("\n")) == (0, 1)
    assert len(lines) > 6
    assert lines[-1].startswith(f"{len(lines) - 1} frames sent: {len(lines) - 1} on time")


async def test_ctrl_c_ends_it_cleanly(arrays: Path) -> None:
    async with serving(ScriptedServer(echo)) as target:
        process = await start("m", "--server", target, "--input", arrays, "--rate", 100, "--repeat")
        assert process.stdout is not None
        for _ in range(2):
            await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        status, lines, errors = await finished(process)
    assert (status, errors.count("\n")) == (0, 1)
    assert lines[-1].endswith(" ms")
    sent = len(lines) + 1  # two lines are read before, one is the summary
    assert lines[-1].startswith(f"{sent} frames sent: {sent} on time")


async def test_ctrl_c_while_stdin_stays_open() -> None:
    spec = tensor_pb2.TensorSpec(datatype=tensor_pb2.DATA_TYPE_UINT8, shape=[-1, -1, 3], encoded_formats=[1])
    picture = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    async with serving(ScriptedServer(answering(inputs=[spec]))) as target:
        process = await start("m", "--server", target, "--input", "-")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(picture)
        assert (await process.stdout.readline()).startswith(b"frame 1  on time")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
        assert (await process.stdout.read()).startswith(b"1 frame sent: 1 on time")
        await finished(process)


async def test_errors_are_one_line_and_status_1(arrays: Path, tmp_path: Path) -> None:
    async def unknown(stream: OpenedStream) -> None:
        await refuse(stream.context, grpc.StatusCode.NOT_FOUND, "no model 'model'; there are: yolo", "MODEL_NOT_FOUND")

    async def strict(stream: OpenedStream) -> None:
        await stream.greet()
        await anext(stream.frames())
        await stream.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "outcomes were not read", "CLIENT_TOO_SLOW")

    (tmp_path / "a.txt").touch()
    (tmp_path / "a.odd").touch()
    np.save(tmp_path / "wide.npy", np.zeros((5, 9), np.float32))
    for script, arguments, message in (
        (unknown, ("--input", arrays), "duly: no model 'model'; there are: yolo\n"),
        (strict, ("--input", arrays), "duly: outcomes were not read\n"),
        (echo, ("--input", tmp_path / "none.mp4"), f"duly: {tmp_path / 'none.mp4'}: no such file or folder\n"),
        (echo, ("--input", tmp_path / "a.txt"), "a.txt: text; the model takes FP32[4]\n"),
        (echo, ("--input", tmp_path / "a.odd"), "unknown kind of recording; a folder of pictures or one of"),
        (echo, ("--input", tmp_path / "wide.npy"), "wide.npy: input 'x': got FP32[9], expected FP32[4]\n"),
        (echo, ("--input", arrays, "--server", "127.0.0.1:1"), "duly: no answer from 127.0.0.1:1: "),
    ):
        status, _, errors = await stream(script, *arguments)
        assert status == 1, errors
        assert message in errors
        assert "Traceback" not in errors


async def test_texts_are_shown(arrays: Path) -> None:
    label = tensor("label", np.array([b"\4\0\0\0zw\xc3\xb6\1\0\0\0b"]).view("u1"), tensor_pb2.DATA_TYPE_STRING)
    label.ClearField("shape")
    label.shape.append(2)
    status, lines, _ = await stream(answering(label), "--input", arrays, "--rate", 1000)
    assert status == 0
    assert lines[0].endswith(' ms  label "zwö", "b"')
    _, lines, _ = await stream(answering(label), "--input", arrays, "--rate", 1000, "--json")
    assert json.loads(lines[0])["outputs"] == {"label": ["zwö", "b"]}


async def test_bf16_is_shown_as_numbers(arrays: Path) -> None:
    half = tensor("half", np.uint16([0x3FC0, 0x7F80]), tensor_pb2.DATA_TYPE_BF16)
    _, lines, _ = await stream(answering(half), "--input", arrays, "--rate", 1000, "--json")
    assert json.loads(lines[0])["outputs"] == {"half": [1.5, "Infinity"]}
