"""`duly stream --record`: what was sent and what became of it, as a log that can be replayed."""

import signal
from pathlib import Path

import numpy as np

from duly.v1 import tensor_pb2
from tests import graphs
from tests.client.duly_stream import answering, tensor
from tests.client.scripted_server import ScriptedServer, echo, serving
from tests.duly_logs.conftest import run, start
from tests.duly_logs.drives import pictures
from tests.duly_logs.test_cli_replay import messages, outcomes
from tests.e2e.serving import serving as serve
from tests.encoded_video import HEIGHT, WIDTH, decoded, save, units


async def test_pictures_are_recorded_and_can_be_replayed(server: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "out.mcap"
    folder.mkdir()
    jpegs = pictures(6)
    for number, jpeg in enumerate(jpegs):
        (folder / f"{number}.jpg").write_bytes(jpeg)
    status, text, errors = await run(
        "stream", "detector", "--server", server, "--input", folder, "--rate", "20", "--record", out
    )
    assert (status, text.splitlines()[-1][:13]) == (0, "6 frames sent"), errors
    sent = list(messages(out, "/duly/detector/frames"))
    assert [content.data for _, content in sent] == jpegs
    assert np.diff([time_ns for time_ns, _ in sent]).tolist() == [50_000_000] * 5
    assert [outcome.frame for outcome in outcomes(out)] == list(range(1, 7))  # type: ignore[attr-defined]
    again = tmp_path / "again.mcap"
    status, text, errors = await run(
        "replay", out, "--model", "detector", "--server", server, "--speed", "max", "--write", again
    )
    assert status == 0, errors
    assert text.startswith("6 frames sent: 6 on time")
    assert [content.data for _, content in messages(again, "/duly/detector/frames")] == jpegs


async def test_video_is_recorded_as_it_is_encoded_and_can_be_replayed(server: str, tmp_path: Path) -> None:
    data, out, again = units("H264", 8), tmp_path / "out.mcap", tmp_path / "again.mcap"
    film = save(tmp_path / "film.mp4", data, "H264")
    toml = '[[input]]\nname = "x"\nencodings = ["H264", "JPEG"]\n'
    graphs.save(tmp_path / "models", "eye", graphs.copying(("N", HEIGHT, WIDTH, 3), graphs.UINT8), toml)
    async with serve(tmp_path / "models") as app:
        own = ("--server", app.address)
        status, text, errors = await run(
            "stream", "eye", *own, "--input", film, "--backlog", "ALL", "--budget-ms", "5000", "--record", out
        )
        assert (status, text.splitlines()[-1][:21]) == (0, "8 frames sent: 8 on t"), errors
        sent = [content for _, content in messages(out, "/duly/eye/frames")]
        assert {content.format for content in sent} == {"h264"}
        assert len(decoded("H264", [content.data for content in sent])) == 8
        status, text, errors = await run("replay", out, "--model", "eye", *own, "--speed", "max", "--write", again)
        assert status == 0, errors
        assert text.startswith("8 frames sent: 8 on time")
    # The other server's detector takes pictures.
    status, _, errors = await run("replay", out, "--model", "detector", "--server", server, "--write", again)
    assert status != 0
    assert "compressed video (H264), which the model does not take" in errors


async def test_arrays_are_recorded_as_they_are_and_can_be_replayed(server: str, tmp_path: Path) -> None:
    np.save(tmp_path / "imu.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    out = tmp_path / "out.mcap"
    script = answering(tensor("y", np.float32([0.5]), tensor_pb2.DATA_TYPE_FP32))
    async with serving(ScriptedServer(script)) as target:
        status, _, errors = await run(
            "stream", "m", "--server", target, "--input", tmp_path / "imu.npy", "--rate", "500", "--record", out
        )
    assert status == 0, errors
    inputs = [content.inputs[0] for _, content in messages(out, "/duly/m/frames")]
    assert [(each.name, each.datatype, list(each.shape)) for each in inputs] == [("x", "FP32", [4])] * 3
    assert np.frombuffer(inputs[2].data, "<f4").tolist() == [8, 9, 10, 11]
    assert [list(o.outputs[0].values) for o in outcomes(out, "m")] == [[0.5]] * 3  # type: ignore[attr-defined]
    again = tmp_path / "again.mcap"
    given = ("replay", out, "--topic", "/duly/m/frames", "--model", "doubling", "--server", server)
    status, _, errors = await run(*given, "--speed", "max", "--write", again)
    assert status == 0, errors
    doubled = [list(o.outputs[0].values) for o in outcomes(again, "doubling")]  # type: ignore[attr-defined]
    assert doubled == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18, 20, 22]]


async def test_ctrl_c_leaves_a_whole_log(tmp_path: Path) -> None:
    np.save(tmp_path / "imu.npy", np.zeros((5, 4), np.float32))
    out = tmp_path / "out.mcap"
    async with serving(ScriptedServer(echo)) as target:
        process = await start(
            *("stream", "m", "--server", target, "--input", tmp_path / "imu.npy", "--rate", "100", "--repeat"),
            *("--record", out),
        )
        assert process.stdout is not None
        for _ in range(3):
            await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert len(outcomes(out, "m")) >= 3


async def test_where_it_cannot_be_written_it_says_so(tmp_path: Path) -> None:
    np.save(tmp_path / "imu.npy", np.zeros((5, 4), np.float32))
    given = ("stream", "m", "--input", tmp_path / "imu.npy", "--record")
    async with serving(ScriptedServer(echo)) as target:
        status, text, errors = await run(*given, tmp_path / "none" / "out.mcap", "--server", target)
    assert (status, text) == (1, "")
    assert errors.endswith("none/out.mcap: No such file or directory\n")


async def test_without_the_packages_it_says_which_to_install(tmp_path: Path, before_packages: Path) -> None:
    (before_packages / "mcap.py").write_text("raise ModuleNotFoundError(\"No module named 'mcap'\", name='mcap')\n")
    np.save(tmp_path / "imu.npy", np.zeros((5, 4), np.float32))
    given = ("stream", "m", "--input", tmp_path / "imu.npy", "--record", tmp_path / "out.mcap")
    async with serving(ScriptedServer(echo)) as target:
        status, _, errors = await run(*given, "--server", target, before=before_packages)
    assert status == 1
    assert errors.endswith("duly: --record needs the module mcap, which is not installed: pip install 'duly[logs]'\n")


async def test_text_is_recorded_and_can_be_replayed(tmp_path: Path) -> None:
    lines, out, again = tmp_path / "reviews.txt", tmp_path / "out.mcap", tmp_path / "again.mcap"
    lines.write_text("A GOOD film\ndull\n\n", "utf-8")
    graphs.save(tmp_path / "models", "reviews", graphs.sorting_reviews())
    async with serve(tmp_path / "models") as app:
        own, more = ("--server", app.address), ("--backlog", "ALL", "--budget-ms", "60000")
        status, text, errors = await run("stream", "reviews", *own, "--input", lines, *more, "--record", out)
        assert status == 0, errors
        assert ' ms  label "positive", scores float32[2]' in text.splitlines()[0]
        assert [
            output.texts for _, content in messages(out, "/duly/reviews/outcomes") for output in content.outputs
        ] == [
            *(["positive"], []),
            *(["negative"], []),
            *(["negative"], []),
        ]
        status, text, errors = await run("replay", out, "--model", "reviews", *own, "--speed", "max", "--write", again)
        assert status == 0, errors
        assert text.startswith("3 frames sent: 3 on time")
