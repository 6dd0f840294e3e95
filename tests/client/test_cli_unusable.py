"""`duly stream` on files as the world writes them: what cannot be used is named and passed over, the rest is served."""

import asyncio
import io
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from duly.cli_outcomes import TOLD_MAX
from duly.v1 import inference_pb2, tensor_pb2
from tests.client.duly_stream import answering, finished, start, stream
from tests.client.scripted_server import OpenedStream, Script, ScriptedServer, echo, on_time, serving

PIXELS = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
JPEG, PNG, WEBP = (cv2.imencode(suffix, PIXELS)[1].tobytes() for suffix in (".jpg", ".png", ".webp"))
CAMERA = tensor_pb2.TensorSpec(name="x", datatype=tensor_pb2.DATA_TYPE_UINT8, shape=[-1, -1, 3], encoded_formats=[1])
VOICE = tensor_pb2.TensorSpec(
    name="x", datatype=tensor_pb2.DATA_TYPE_FP32, shape=[4], encoded_formats=[3], sample_rate_hz=8000
)


def refusing(*bad: bytes) -> Script:
    """A server to whose model these pictures are damaged."""

    async def answer(stream: OpenedStream) -> None:
        await stream.greet(inputs=[CAMERA])
        async for frame in stream.frames():
            outcome = on_time(frame)
            if frame.encoded and frame.encoded[0].data in bad:
                outcome.status, outcome.reason = inference_pb2.OUTCOME_STATUS_INVALID, "the JPEG is damaged"
            await stream.answer(outcome)

    return answer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, one that a worker finds damaged, and much that is no picture."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a1.JPG").write_bytes(JPEG)
    (pictures / "a2.jpg").write_bytes(JPEG[:-9])
    (pictures / "a10.Jpeg").write_bytes(JPEG)
    (pictures / "empty.jpg").touch()
    (pictures / "web.jpg").write_bytes(WEBP)
    (pictures / "text.png").write_text("not a picture")
    (pictures / "folder.jpg").mkdir()
    (pictures / "gone.jpg").symlink_to("nowhere")
    (pictures / "._a1.jpg").write_bytes(b"\0\5\x16\7")
    (pictures / ".hidden.jpg").write_bytes(b"")
    (pictures / "notes.txt").write_text("none either")
    (pictures / "more").mkdir()
    return pictures


async def test_the_good_pictures_of_a_folder_are_served_and_the_others_named(folder: Path) -> None:
    status, lines, errors = await stream(refusing(JPEG[:-9]), "--input", folder, "--rate", 200)
    assert status == 0, errors
    assert lines[1].startswith("frame 2  invalid  (the JPEG is damaged)")
    assert lines[-1].startswith("3 frames sent: 2 on time, 1 invalid; 5 passed over; latency")
    for words in (
        f"{folder}: left out, not pictures by their names: ._a1.jpg, .hidden.jpg, more/, notes.txt",
        f"duly: {folder / 'a2.jpg'}: the JPEG is damaged",
        f"duly: passed over: {folder / 'empty.jpg'}: neither a JPEG nor a PNG picture: the file is empty",
        f"duly: passed over: {folder / 'web.jpg'}: neither a JPEG nor a PNG picture: it is WEBP",
        f"duly: passed over: {folder / 'text.png'}: neither a JPEG nor a PNG picture: it is text",
        f"duly: passed over: {folder / 'folder.jpg'}: Is a directory",
        f"duly: passed over: {folder / 'gone.jpg'}: No such file or directory",
    ):
        assert words in errors.splitlines()


async def test_strict_ends_at_the_first_that_cannot_be_used(folder: Path) -> None:
    status, _, errors = await stream(refusing(), "--input", folder, "--rate", 200, "--strict")
    assert (status, errors.splitlines()[-1]) == (
        1,
        f"duly: {folder / 'empty.jpg'}: neither a JPEG nor a PNG picture: the file is empty",
    )
    status, _, errors = await stream(refusing(JPEG[:-9]), "--input", folder, "--rate", 200, "--strict")
    assert (status, errors.splitlines()[-1]) == (1, f"duly: {folder / 'a2.jpg'}: the JPEG is damaged")


async def test_status_is_1_where_nothing_was_served(tmp_path: Path) -> None:
    for number in range(TOLD_MAX + 5):
        (tmp_path / f"{number}.jpg").touch()
    status, lines, errors = await stream(refusing(), "--input", tmp_path, "--repeat", "--json")
    assert (status, errors.count("passed over: ")) == (1, TOLD_MAX), "and each round would be the same"
    assert "duly: what else cannot be used is counted and no longer told" in errors
    assert errors.splitlines()[-1].endswith(f"nothing was served: {TOLD_MAX + 5} passed over")
    expected = {"sent": 0, "passed_over": TOLD_MAX + 5, "outcomes": {}, "guards": {}, "latency_ms": None}
    assert json.loads(lines[-1]) == expected
    (tmp_path / "0.jpg").write_bytes(JPEG)
    status, _, errors = await stream(refusing(JPEG), "--input", tmp_path / "0.jpg")
    assert (status, errors.splitlines()[-1]) == (1, f"duly: {tmp_path / '0.jpg'}: nothing was served: 1 invalid")


async def test_pictures_of_a_size_that_the_model_does_not_take_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "right.png").write_bytes(PNG)
    (tmp_path / "wide.png").write_bytes(cv2.imencode(".png", np.zeros((8, 9, 3), np.uint8))[1].tobytes())
    pixels = tensor_pb2.TensorSpec(name="x", datatype=tensor_pb2.DATA_TYPE_UINT8, shape=[8, 8, 3])
    status, lines, errors = await stream(answering(inputs=[pixels]), "--input", tmp_path)
    assert (status, len(lines)) == (0, 2)
    assert errors.splitlines()[-1] == (
        f"duly: passed over: {tmp_path / 'wide.png'}: input 'x': got UINT8[8,9,3], expected UINT8[8,8,3]"
    )


def wav(samples: Any) -> bytes:
    header = b"fmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0"
    return b"RIFF\xff\xff\xff\xffWAVE" + header + b"data\xff\xff\xff\xff" + samples.tobytes()


async def test_stdin_is_what_its_first_bytes_say() -> None:
    samples, rows = np.arange(8, dtype="<i2"), np.arange(8, dtype=np.float32).reshape(2, 4)
    for spec, data, expected in (
        (VOICE, wav(samples), [samples[:4].tobytes(), samples[4:].tobytes()]),
        (VOICE, samples.tobytes(), [samples[:4].tobytes(), samples[4:].tobytes()]),
        (VOICE, npy(rows), [row.tobytes() for row in rows]),
        (CAMERA, b"--frame\r\n\r\n" + JPEG + bytes(3) + JPEG + b"\r\n--frame--\r\n", [JPEG, JPEG]),
    ):
        server = ScriptedServer(answering(inputs=[spec]))
        async with serving(server) as target:
            status, _, errors = await finished(await start("m", "--server", target, "--input", "-"), data)
        assert status == 0, errors
        assert [(frame.encoded or frame.tensors)[0].data for frame in server.frames] == expected


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("spec", "data", "why"),
    [
        (VOICE, JPEG, "stdin: JPEG; the model takes FP32[4] or PCM_S16LE"),
        (CAMERA, wav(np.zeros(9, "<i2")), "stdin: a WAV; the model takes UINT8[?,?,3] or JPEG"),
        (CAMERA, b"", "JPEG pictures from stdin: no frame came"),
        (CAMERA, b"\1\2\3" * 50, "JPEG pictures from stdin: nothing was served: 1 passed over"),
        (VOICE, npy(np.zeros((2, 4))), "stdin: input 'x': got FP64[4], expected FP32[4] or PCM_S16LE; np.save(path, "),
    ],
)
async def test_stdin_that_is_nothing_for_the_model(spec: tensor_pb2.TensorSpec, data: bytes, why: str) -> None:
    status, _, errors = await stream(answering(inputs=[spec]), "--input", "-", stdin=data)
    assert status == 1
    assert errors.splitlines()[-1].startswith(f"duly: {why}")


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.npy", b"", "not a .npy file of numbers: the file is empty; np.save writes one"),
        ("a.npy", npy(np.array([{}], object)), "its elements are object; BOOL, UINT8,"),
        ("a.npy", npy(np.zeros((1 << 20, 4), np.float32))[:150], None),
        ("a.npy", npy(np.float32(1)), "input 'x': got FP32[], expected FP32[4]"),
        ("a.npy", npy(np.zeros((2, 5))), "input 'x': got FP64[5], expected FP32[4]\n"),
        ("a.mp4", b"\0\0\0\x18ftypmp42", "OpenCV cannot read this video, or there is none in it"),
        ("a.wav", b"RIFF", "not a WAV file of samples: it is text"),
    ],
)
async def test_no_file_of_a_users_is_an_internal_error(tmp_path: Path, name: str, data: bytes, why: str | None) -> None:
    (tmp_path / name).write_bytes(data)
    camera = [CAMERA] if name == "a.mp4" else []
    status, _, errors = await stream(answering(inputs=camera) if camera else echo, "--input", tmp_path / name)
    assert status == (1 if why else 0)
    assert "internal error" not in errors
    assert f"{tmp_path / name}: {why or 'cut off after 1 of its 1048576 arrays'}" in errors


async def test_a_named_pipe_is_read_as_stdin_is_and_one_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    pipe = tmp_path / "sound.wav"
    os.mkfifo(pipe)
    writing = asyncio.create_task(asyncio.to_thread(pipe.write_bytes, wav(np.arange(8, dtype="<i2"))))
    status, lines, err = await stream(answering(inputs=[VOICE]), "--input", pipe)
    await writing
    assert (status, len(lines)) == (0, 3), err
    folder = tmp_path / "pictures"
    folder.mkdir()
    os.mkfifo(folder / "a.jpg")
    (folder / "b.jfif").write_bytes(JPEG)
    status, lines, err = await stream(answering(inputs=[CAMERA]), "--input", folder, "--rate", 100)
    assert (status, len(lines)) == (0, 2), err
    assert "a.jpg: no file but a pipe, a socket or a device" in err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--input", "srt://cam/1"), "ffmpeg -i srt://cam/1 -f mjpeg - | duly stream MODEL --input -"),
        (("--input", "-", "--rate", "1e-300"), "'--rate': 1e-300 is not in the range"),
        (("--input", "-", "--seconds", "nan"), "'--seconds': NaN is no number here"),
        (("--input", "-", "--class", "CRITICAL"), "--class CRITICAL needs --rate"),
        (("--input", "-", "--budget-ms", "1e300"), "'--budget-ms': 1e+300 is not in the range"),
        (("--input", "-", "--server", "http://cam"), "target 'http://cam': expected HOST:PORT"),
    ],
)
async def test_what_cannot_be_is_said_in_words(arguments: tuple[str, ...], why: str) -> None:
    _, lines, err = await stream(answering(inputs=[CAMERA]), *arguments)
    assert why in err
    assert not lines
    assert "internal error" not in err
