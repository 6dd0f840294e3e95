"""`duly replay` and `duly diff` as a user meets them: processes of their own, a real server, real files."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from mcap.reader import make_reader
from mcap_protobuf.decoder import DecoderFactory as Protobuf
from mcap_ros2.decoder import DecoderFactory as Ros2

from tests.duly_logs.conftest import run, start
from tests.duly_logs.drives import CAMERA, START_NS, json_drive, pictures, protobuf_drive, ros2_drive, times
from tests.duly_logs.test_bag import ros1_bag


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return ros2_drive(tmp_path / "drive.mcap", pictures(12))


def messages(file: Path, topic: str) -> Iterator[tuple[int, Any]]:
    """What any reader of MCAP finds on a topic."""
    with file.open("rb") as opened:
        reader = make_reader(opened, validate_crcs=True, decoder_factories=[Protobuf(), Ros2()])
        for _, _, message, content in reader.iter_decoded_messages(topics=[topic]):
            yield message.log_time, content


def outcomes(file: Path, model: str = "detector") -> list[Message]:
    return [content for _, content in messages(file, f"/duly/{model}/outcomes")]


async def test_a_drive_is_replayed_and_written(drive: Path, server: str, tmp_path: Path) -> None:
    out = tmp_path / "out.mcap"
    status, text, errors = await run(
        "replay", drive, "--model", "detector", "--server", server, "--speed", "max", "--write", out, "--draw"
    )
    assert status == 0, errors
    assert text.startswith("12 frames sent: 12 on time; one frame alone p50 ")
    assert "1.1 s of the log in " in text
    assert text.endswith(f"written to {out}\n")
    assert errors.startswith(
        f"{drive}: 12 messages on {CAMERA} (sensor_msgs/msg/CompressedImage), as fast as deadlines allow, to detector "
        "version 2; budget 2000 ms"
    )
    found = outcomes(out)
    assert [outcome.frame for outcome in found] == list(range(1, 13))  # type: ignore[attr-defined]
    assert {outcome.status for outcome in found} == {"ON_TIME"}  # type: ignore[attr-defined]
    labels = {(d.label, round(d.x1, 2)) for outcome in found for d in outcome.detections}  # type: ignore[attr-defined]
    assert labels == {("car", 0.2)}
    boxes = list(messages(out, "/duly/detector/annotations"))
    assert [time_ns for time_ns, _ in boxes] == times(12)
    (outline,) = boxes[3][1].points
    assert [(round(point.x, 1), round(point.y, 1)) for point in outline.points] == [
        (0, 0),
        (12.8, 0),
        (12.8, 9.6),
        (0, 9.6),
    ], "pixels of a picture of 64x48"
    stamp = boxes[3][1].timestamp
    assert stamp.seconds * 10**9 + stamp.nanos == times(12)[3] - 5_000_000, "it lies over the picture of its stamp"
    assert boxes[3][1].texts[0].text.startswith("car 0.0")
    assert len(list(messages(out, "/duly/detector/pictures"))) == 12
    assert len(list(messages(out, CAMERA))) == 12
    status, text, errors = await run("replay", out, "--model", "detector", "--server", server, "--speed", "max")
    assert (status, text[:32]) == (0, "12 frames sent: 12 on time; one "), f"pictures of ours are no drive: {errors}"
    slack = [content.data[0] for _, content in messages(out, "/duly/detector/slack_ms")]
    assert slack == pytest.approx([outcome.slack_ms for outcome in found])  # type: ignore[attr-defined]
    assert all(0 < number < 2000 for number in slack)


async def test_at_a_speed_frames_come_as_they_came(drive: Path, server: str, tmp_path: Path) -> None:
    out = tmp_path / "out.mcap"
    status, text, errors = await run(
        "replay", drive, "--model", "detector", "--server", server, "--speed", "4x", "--write", out, "--json"
    )
    assert status == 0, errors
    summary = json.loads(text)
    assert (summary["sent"], summary["log_s"], summary["written"]) == (12, 1.1, str(out))
    assert summary["took_s"] >= 1.1 / 4
    assert sum(summary["outcomes"].values()) == 12
    assert "at 4x, to detector" in errors
    ages = [outcome.age_ms for outcome in outcomes(out)]  # type: ignore[attr-defined]
    assert min(ages) >= 5 / 4, "each was captured 5 ms before it was logged, of which the machine has a fourth"


async def test_a_server_may_be_started_for_the_time_and_two_versions_compared(
    drive: Path, models: Path, tmp_path: Path
) -> None:
    logs = [tmp_path / "one.mcap", tmp_path / "two.mcap"]
    for version, out in enumerate(logs, start=1):
        status, _, errors = await run(
            *("replay", drive, "--model", "detector", "--models", models, "--version", version, "--speed", "max"),
            *("--write", out),
        )
        assert status == 0, errors
        assert f"to detector version {version};" in errors
    page = tmp_path / "diff.html"
    status, text, errors = await run("diff", *logs, "--report", page, "--exit-code", "--pictures", 5)
    assert (status, errors) == (3, "")
    assert text == f"12 of 12 frames changed: 12 found other things.\nwritten to {page}\n"
    html = page.read_text("utf-8")
    assert html.count("<figure") == 5
    assert html.count("data:image/jpeg;base64,") == 5, "a picture is in the page once"
    assert "7 more frames that changed have no picture here" in html
    assert "<td>version</td><td class=n>1</td><td class=n>2</td>" in html
    assert "car 0.08 appeared; car 0.08 vanished" in html
    status, text, _ = await run("diff", logs[0], logs[0], "--exit-code")
    assert (status, text) == (0, "Nothing changed in 12 frames.\n")
    status, text, _ = await run("diff", *logs, "--json")
    assert status == 0
    assert json.loads(text)["changes"][0]["frame"] == 1


async def test_two_settings_are_compared(drive: Path, server: str, tmp_path: Path) -> None:
    given = ("replay", drive, "--model", "detector", "--server", server, "--version", "2")
    await run(*given, "--speed", "max", "--write", tmp_path / "a.mcap")
    status, text, _ = await run(*given, "--budget-ms", "0.001", "--backlog", "ALL", "--write", tmp_path / "b.mcap")
    assert text.startswith("12 frames sent: 12 expired; ")
    assert status == 0, "what the server made of the frames is the outcome, and no failure"
    status, text, _ = await run("diff", tmp_path / "a.mcap", tmp_path / "b.mcap")
    assert text == "12 of 12 frames changed: 12 ended otherwise.\n"


async def test_sound_bags_and_json(server: str, tmp_path: Path) -> None:
    sound = protobuf_drive(tmp_path / "sound.mcap", [], bytes(32000))
    out = tmp_path / "out.mcap"
    common = ("--server", server, "--speed", "max")
    status, text, errors = await run("replay", sound, "--model", "voice", *common, "--write", out)
    assert status == 0, errors
    assert text.startswith("31 frames sent: 31 on time")
    assert [list(o.outputs[0].values) for o in outcomes(out, "voice")] == [[0.0]] * 31  # type: ignore[attr-defined]
    assert len(list(messages(out, "/microphone"))) == 50, "each message once, of however many chunks"
    bag = ros1_bag(tmp_path / "drive.bag", pictures(3))
    status, text, errors = await run("replay", bag, "--model", "detector", *common, "--write", out)
    assert (status, text[:28]) == (0, "3 frames sent: 3 on time; on"), errors
    assert [content.format for _, content in messages(out, CAMERA)] == ["jpeg"] * 3
    numbers = json_drive(tmp_path / "numbers.mcap", {"/x": [{"x": [1, 2, 3, 4]}]})
    status, text, errors = await run("replay", numbers, "--model", "doubling", *common, "--write", out)
    assert status == 0, errors
    assert [list(o.outputs[0].values) for o in outcomes(out, "doubling")] == [[2, 4, 6, 8]]  # type: ignore[attr-defined]


async def test_a_log_that_is_cut_off_is_replayed_as_far_as_it_goes(server: str, tmp_path: Path) -> None:
    file = ros2_drive(tmp_path / "drive.mcap", pictures(40), imu=False, chunk_size=1000)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    given = ("replay", file, "--model", "detector", "--server", server, "--speed", "max")
    status, text, errors = await run(*given)
    assert status == 0
    assert "duly: passed over: " in errors
    assert "cut off or damaged after" in errors
    assert "; 1 passed over; " in text
    status, text, errors = await run(*given, "--strict")
    assert (status, text) == (1, "")
    assert errors.startswith(f"duly: {file}: cut off or damaged after")


async def test_a_clock_that_jumps_is_told_and_the_drive_goes_on(server: str, tmp_path: Path) -> None:
    hour = 3600 * 10**9
    at_ns = [START_NS, START_NS + 10**8, START_NS - hour, START_NS + hour, START_NS + hour + 10**8]
    stamps_ns = [time_ns + hour for time_ns in at_ns]
    file = ros2_drive(tmp_path / "drive.mcap", pictures(5), at_ns, stamps_ns=stamps_ns, imu=False)
    status, text, errors = await run("replay", file, "--model", "detector", "--server", server)
    assert status == 0, errors
    assert text.startswith("5 frames sent: ")
    assert "duly: the clock of the log jumps 3.6e+03 s back at message 3; replayed as 100 ms\n" in errors
    assert "duly: the clock of the log jumps 7.2e+03 s ahead at message 4; replayed as 100 ms\n" in errors
    assert "duly: message 1 says that it was captured -3.6e+03 s before it was logged: ages of such" in errors


async def test_what_is_wrong_with_logs_and_options_is_said(server: str, tmp_path: Path, drive: Path) -> None:
    empty = json_drive(tmp_path / "empty.mcap", {})
    two = ros2_drive(tmp_path / "two.mcap", pictures(2), topics=("/left", "/right"))
    bag = tmp_path / "bag"
    bag.mkdir()
    (bag / "bag_0.db3").touch()
    bad = json_drive(tmp_path / "bad.mcap", {"/x": [{"x": [1, 2, 3]}]})
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((tmp_path / "none.mcap",), 1, f"{tmp_path}/none.mcap: no such file or folder"),
        ((empty,), 1, f"{empty}: an empty log: 0 topics, and no message in any of them"),
        ((bag,), 1, f"{bag}: a bag without metadata.yaml: `ros2 bag reindex {bag}` makes it anew"),
        ((two,), 2, "2 topics fit the model: say which with --topic: /left, /right (see duly replay --help)"),
        ((drive, "--topic", "/nope"), 2, f"has no topic '/nope'; it has {CAMERA}, /imu"),
        ((drive, "--topic", "/imu"), 1, "/imu does not fit the model, which takes image: UINT8[?,?,3] or JPEG or PNG"),
        ((bad,), 1, "/x: has x int64[3], of which none fit UINT8[?,?,3] or JPEG or PNG"),
        ((drive, "--write", drive), 2, f"--write {drive}: the log that is replayed; name another file"),
        ((drive, "--draw"), 2, "--draw needs --write"),
        ((drive, "--speed", "fast"), 2, "'fast' is not a valid"),
        ((drive, "--models", tmp_path), 2, "--models starts a server of its own: give it or --server"),
    ]
    for arguments, expected, words in cases:
        status, text, errors = await run("replay", *arguments, "--model", "detector", "--server", server)
        assert (status, text) == (expected, ""), errors
        assert words in errors
        assert "internal error" not in errors
    status, _, errors = await run("replay", drive, "--model", "nobody", "--server", server)
    assert status == 1
    assert "nobody" in errors


async def test_what_cannot_be_compared_is_said(drive: Path, tmp_path: Path) -> None:
    status, _, errors = await run("diff", drive, drive)
    assert (status, errors.count("\n")) == (1, 1)
    assert "has no outcomes (duly.log.Outcome); `duly replay --write` and `duly stream --record` write them" in errors
    status, _, errors = await run("diff", tmp_path / "a.mcap", drive)
    assert (status, errors) == (1, f"duly: {tmp_path}/a.mcap: No such file or directory\n")


async def test_ctrl_c_ends_the_drive_and_the_log_is_whole(server: str, tmp_path: Path) -> None:
    file = ros2_drive(tmp_path / "drive.mcap", pictures(600), imu=False)
    out = tmp_path / "out.mcap"
    process = await start("replay", file, "--model", "detector", "--server", server, "--write", out)
    assert process.stderr is not None
    await process.stderr.readline()
    while not out.exists():
        await process.stderr.read(0)
    process.send_signal(signal.SIGINT)
    text, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert " frame" in text.decode()
    with out.open("rb") as opened:
        assert make_reader(opened).get_summary() is not None


@pytest.mark.parametrize("command", ["replay", "diff"])
async def test_without_the_packages_it_says_which_to_install(before_packages: Path, command: str) -> None:
    (before_packages / "mcap.py").write_text("raise ModuleNotFoundError(\"No module named 'mcap'\", name='mcap')\n")
    status, _, errors = await run(command, "a", "b", before=before_packages)
    assert status == 1
    assert errors == f"duly: {command} needs the module mcap, which is not installed: pip install 'duly[logs]'\n"
