"""RTSP cameras as sources of `duly stream`: real servers, H.264 and JPEG."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from duly_client import Client, Status
from duly_client.recordings import open_recording
from tests import graphs
from tests.duly_logs.conftest import run, start
from tests.duly_logs.test_cli_replay import messages, outcomes
from tests.e2e.serving import serving
from tests.peers.logs.conftest import BIN, HERE

SYSTEM_PYTHON = "/usr/bin/python3"
_BINDINGS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
needs_gstreamer = pytest.mark.skipif(
    not Path(SYSTEM_PYTHON).exists()
    or subprocess.run([SYSTEM_PYTHON, "-c", _BINDINGS], capture_output=True).returncode != 0,
    reason="needs GStreamer's server: apt install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good",
)
pytestmark = pytest.mark.timeout(300)


@asynccontextmanager
async def camera(python: str, script: str, *arguments: str) -> AsyncIterator[str]:
    """Starts a server and gives the line that it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = await asyncio.create_subprocess_exec(
        python, str(HERE / script), *arguments, stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().strip()
        assert line, f"{script} ended"
        yield line
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def streamed(server: str, address: str, out: Path, count: int = 10) -> tuple[int | None, str, str]:
    """Streams until so many outcomes came, as somebody who presses Ctrl-C then."""
    process = await start("stream", "detector", "--server", server, "--input", address, "--record", out)
    assert process.stdout is not None
    lines = [await process.stdout.readline() for _ in range(count)]
    process.terminate()
    text, errors = await process.communicate()
    return process.returncode, (b"".join(lines) + text).decode(), errors.decode()


async def test_h264_is_decoded_here(server: str, tmp_path: Path) -> None:
    out = tmp_path / "out.mcap"
    async with camera(str(BIN / "python"), "h264_camera.py") as address:
        status, text, errors = await streamed(server, address, out)
    assert status == 0, errors
    assert errors.startswith(f"camera {address}, as they come, to detector version 2")
    assert "on time" in text or "late" in text
    sent = [content for _, content in messages(out, "/duly/detector/frames")]
    assert {(content.format, content.data[:2]) for content in sent} == {("jpeg", b"\xff\xd8")}
    scores = [d.score for outcome in outcomes(out) for d in outcome.detections]  # type: ignore[attr-defined]
    assert len(set(scores)) > 1, "the pictures differ"


async def test_h264_goes_to_a_model_that_takes_it_as_it_is(tmp_path: Path) -> None:
    toml = '[[input]]\nname = "x"\nencodings = ["H264"]\n'
    graphs.save(tmp_path, "eye", graphs.copying(("N", 240, 320, 3), graphs.UINT8), toml)
    shades: set[int] = set()
    async with (
        serving(tmp_path) as app,
        Client(app.address) as client,
        client.stream("eye", backlog="ALL", budget_ms=10_000) as stream,
        camera(str(BIN / "python"), "h264_camera.py") as address,
    ):
        recording = open_recording(address, stream.opened)
        assert recording.encoding == "H264"
        frames = recording.frames()
        for _ in range(10):
            frame = await asyncio.to_thread(next, frames)
            assert bytes(frame.value).startswith((b"\0\0\1", b"\0\0\0\1"))
            await stream.send(frame.value, encoding=recording.encoding)
            outcome = await anext(stream)
            assert outcome.status is Status.ON_TIME, outcome.reason
            shades.add(int(outcome.outputs["y"].mean()))
    assert len(shades) > 1, "the pictures differ"


@needs_gstreamer
async def test_jpeg_goes_through_as_it_is(server: str, tmp_path: Path) -> None:
    out = tmp_path / "out.mcap"
    async with camera(SYSTEM_PYTHON, "gstreamer_camera.py") as ports:
        port = ports.split()[0]
        status, _, errors = await streamed(server, f"rtsp://127.0.0.1:{port}/jpeg", out)
        assert status == 0, errors
        sent = [content.data for _, content in messages(out, "/duly/detector/frames")]
        assert len(sent) >= 10
        assert {data[data.find(b"\xff\xdb") + 5] for data in sent} == {5}, "as GStreamer quantised it, at quality 85"
        given = ("stream", "detector", "--server", server, "--input")
        status, _, errors = await run(*given, f"rtsp://me:wrong@127.0.0.1:{port}/nope")
        assert status == 1
        assert (
            f"duly: rtsp://127.0.0.1:{port}/nope: cannot be opened: Server returned 404 Not Found; is it on" in errors
        )
        assert "wrong" not in errors


@needs_gstreamer
async def test_a_password_opens_it(server: str, tmp_path: Path) -> None:
    async with camera(SYSTEM_PYTHON, "gstreamer_camera.py") as ports:
        port = ports.split()[1]
        given = ("stream", "detector", "--server", server, "--input")
        status, _, errors = await run(*given, f"rtsp://me:mistaken@127.0.0.1:{port}/jpeg")
        assert (status, "401 Unauthorized" in errors, "mistaken" in errors) == (1, True, False), errors
        status, text, errors = await streamed(server, f"rtsp://me:secret@127.0.0.1:{port}/jpeg", tmp_path / "out.mcap")
        assert status == 0, errors
        assert "secret" not in text + errors


@needs_gstreamer
async def test_a_camera_that_ends_or_is_lost_ends_the_stream(server: str, tmp_path: Path) -> None:
    async with camera(SYSTEM_PYTHON, "gstreamer_camera.py") as ports:
        port = ports.split()[0]
        status, text, errors = await run(
            "stream", "detector", "--server", server, "--input", f"rtsp://127.0.0.1:{port}/short"
        )
        assert status == 0, errors
        assert " frames sent: " in text
        process = await start("stream", "detector", "--server", server, "--input", f"rtsp://127.0.0.1:{port}/jpeg")
        assert process.stdout is not None
        await process.stdout.readline()
    out, told = await process.communicate()
    assert b" sent: " in out or b"lost after" in told, told.decode()


@needs_gstreamer
async def test_a_camera_that_was_lost_is_opened_again_where_it_is_to_be_repeated(server: str) -> None:
    outcomes: list[bytes] = []
    wanted, enough = sys.maxsize, asyncio.Event()

    async def read(lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            outcomes.append(line)
            if len(outcomes) >= wanted:
                enough.set()
        enough.set()

    async with camera(SYSTEM_PYTHON, "gstreamer_camera.py") as ports:
        port = ports.split()[0]
        process = await start(
            *("stream", "detector", "--server", server, "--repeat", "--input", f"rtsp://127.0.0.1:{port}/jpeg")
        )
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.readline()
    reading = asyncio.create_task(read(process.stdout))
    while b"passed over" not in (told := await process.stderr.readline()):  # it is lost, and cannot be opened again
        assert told, "it has ended"
    wanted = len(outcomes) + 20  # more than were in flight when it was lost
    async with camera(SYSTEM_PYTHON, "gstreamer_camera.py", port):
        await enough.wait()
        process.terminate()
        errors = (await process.stderr.read()).decode()
        await reading
    assert await process.wait() == 0, errors
    assert len(outcomes) >= wanted, errors
