"""Foxglove's SDK records what duly replays; MCAP's libraries, Rerun and a browser open what it writes."""

import asyncio
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from foxglove_schemas_protobuf.ImageAnnotations_pb2 import ImageAnnotations
from google.protobuf import descriptor_pb2

from tests.duly_logs.conftest import run
from tests.duly_logs.drives import pictures, ros2_drive
from tests.peers.logs.conftest import HERE, peer

FRAMES = 10


@pytest.fixture
async def written(server: str, tmp_path: Path) -> Path:
    """Outcomes of a replay, with pictures drawn."""
    drive, out = ros2_drive(tmp_path / "drive.mcap", pictures(FRAMES, 320, 240)), tmp_path / "out.mcap"
    status, _, errors = await run(
        *("replay", drive, "--model", "detector", "--version", "2", "--server", server, "--speed", "max"),
        *("--write", out, "--draw"),
    )
    assert status == 0, errors
    return out


async def test_a_drive_that_foxglove_recorded_is_replayed(server: str, tmp_path: Path) -> None:
    folder, drive, out = tmp_path / "pictures", tmp_path / "foxglove.mcap", tmp_path / "out.mcap"
    folder.mkdir()
    for number, jpeg in enumerate(pictures(FRAMES)):
        (folder / f"{number}.jpg").write_bytes(jpeg)
    assert peer("python", HERE / "foxglove_recorder.py", folder, drive) == "foxglove.ImageAnnotations protobuf\n"
    status, text, errors = await run(
        "replay", drive, "--model", "detector", "--server", server, "--speed", "2", "--write", out
    )
    assert status == 0, errors
    assert f"{FRAMES} messages on /camera (foxglove.CompressedImage)" in errors
    assert text.startswith(f"{FRAMES} frames sent: ")
    ours = descriptor_pb2.FileDescriptorProto()
    ImageAnnotations.DESCRIPTOR.file.CopyToProto(ours)
    theirs = fields_of_file(Path(f"{drive}.schema"))
    assert fields_of([ours])["ImageAnnotations"] == theirs["ImageAnnotations"], "as this version of the SDK has it"


def fields_of_file(file: Path) -> dict[str, list[tuple[str, int]]]:
    return fields_of(descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes()).file)


def fields_of(files: object) -> dict[str, list[tuple[str, int]]]:
    return {
        message.name: sorted((field.name, field.number) for field in message.field)
        for file in files  # type: ignore[attr-defined]
        for message in file.message_type
    }


def test_mcaps_libraries_read_every_message(written: Path) -> None:
    number = "std_msgs/msg/Float64MultiArray cdr"
    assert peer("python", HERE / "count_messages.py", written).splitlines() == [
        f"/camera/image/compressed sensor_msgs/msg/CompressedImage cdr {FRAMES}",
        f"/duly/detector/age_ms {number} {FRAMES}",
        f"/duly/detector/annotations foxglove.ImageAnnotations protobuf {FRAMES}",
        f"/duly/detector/latency_ms {number} {FRAMES}",
        f"/duly/detector/outcomes duly.log.Outcome protobuf {FRAMES}",
        f"/duly/detector/pictures foxglove.CompressedImage protobuf {FRAMES}",
        f"/duly/detector/slack_ms {number} {FRAMES}",
    ]


def test_rerun_shows_pictures_and_plots(written: Path, tmp_path: Path) -> None:
    """What it made of each topic: pictures, series of numbers, and the other messages by their fields."""
    peer("rerun", "mcap", "convert", written, "-o", tmp_path / "out.rrd")
    rows: dict[tuple[str, str], int] = {}
    for line in peer("rerun", "rrd", "print", tmp_path / "out.rrd").splitlines():
        found = re.search(r"with (\d+) rows .* - (/\S+) - data columns: \[(.*)\]", line)
        for column in found[3].split() if found else ():
            key = (found[2], column)  # type: ignore[index]
            rows[key] = rows.get(key, 0) + int(found[1])  # type: ignore[index]
    expected = {
        ("/camera/image/compressed", "EncodedImage:blob"),
        ("/duly/detector/pictures", "EncodedImage:blob"),
        ("/duly/detector/slack_ms", "Scalars:scalars"),
        ("/duly/detector/age_ms", "Scalars:scalars"),
        ("/duly/detector/latency_ms", "Scalars:scalars"),
        ("/duly/detector/outcomes", "duly.log.Outcome:message"),
        ("/duly/detector/annotations", "foxglove.ImageAnnotations:message"),
    }
    assert {key: rows.get(key) for key in expected} == dict.fromkeys(expected, FRAMES)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser: apt install chromium")
async def test_a_browser_shows_the_report(written: Path, server: str, tmp_path: Path) -> None:
    after, page, shot = tmp_path / "after.mcap", tmp_path / "diff.html", tmp_path / "diff.png"
    given = ("replay", tmp_path / "drive.mcap", "--model", "detector", "--server", server, "--write", after)
    await run(*given, "--budget-ms", "0.001", "--backlog", "ALL")
    status, _, errors = await run("diff", written, after, "--report", page)
    assert status == 0, errors
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,6000", f"--screenshot={shot}")
    browser = await asyncio.create_subprocess_exec("chromium", *options, str(page), stderr=asyncio.subprocess.DEVNULL)
    assert await browser.wait() == 0
    pixels = cv2.imread(str(shot))
    assert pixels is not None
    colours = dict(coloured(pixels))
    assert colours["on time"] > 5000, "the row of frames that were on time"
    assert colours["expired"] > 5000
    assert colours["box in both"] + colours["box before"] > 1000
    grays = [int(picture) for picture in np.unique(pixels[(pixels == pixels[:, :, :1]).all(axis=2)][:, 0])]
    assert len(grays) > FRAMES, "the pictures of the drive, each of another gray"


def coloured(pixels: np.ndarray) -> Iterator[tuple[str, int]]:
    """How many pixels have the colour of each thing."""
    for name, colour in {
        "on time": 0x2E9E5B,
        "expired": 0xD9622B,
        "box in both": 0x2E9E5B,
        "box before": 0x2F6FDE,
    }.items():
        wanted = np.array([colour & 255, colour >> 8 & 255, colour >> 16], np.int16)
        yield name, int((np.abs(pixels.astype(np.int16) - wanted).max(axis=2) < 6).sum())
