"""The demo as a user meets it, on the real models and recordings, and the parts of it that can go wrong."""

import fcntl
import io
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
import threading
from pathlib import Path

import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from rich.console import Console

from duly.demo import prepare
from duly.demo.assets import cache_dir, fetch
from duly.demo.clips import Clip
from duly.demo.perception import Hearing, Sight
from duly.demo.prepare import prepare_models
from duly.demo.sensors import Sensor
from duly.demo.serving import ServerFailed, serving
from duly.demo.show import percent, table
from duly.demo.street import DEMO, speaker_turns
from duly.demo.tally import Tally
from duly_client import Client, Outcome, ServerUnavailable, Status
from tests.demo.running import command, environment, paragraphs

MS = 1_000_000


def rows(output: str) -> dict[str, list[int]]:
    """The last table: sent, on time, late, superseded, expired and shed of each stream."""
    row = r"^(camera \d|camera|microphone) +(?:critical|standard|best effort) +(\d+) +(\d+) +<?\d+ +" + r"(\d+) +" * 4
    table = output.rsplit("\nstream ", 1)[1]
    return {name: [int(number) for number in numbers] for name, *numbers in re.findall(row, table, re.MULTILINE)}


# ---- the whole of it ----


@pytest.fixture(scope="module", autouse=True)
def _assets() -> None:
    """Fetched here, where the cache has them not yet: the demo would report it on standard error."""
    fetch(DEMO.assets, progress=False)


@pytest.mark.timeout(300)
def test_the_demo_shows_a_camera_and_a_microphone_and_accounts_for_every_frame() -> None:
    done = subprocess.run(command("--seconds", "6"), capture_output=True, text=True, env=environment(), timeout=280)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "\x1b" not in done.stdout  # nobody draws where there is no terminal
    assert re.search(r"^ +5 s +camera \d+ of \d+ on time.*microphone \d+ of \d+ on time", done.stdout, re.MULTILINE)
    counts = rows(done.stdout)
    # 6 s at 25 and at 31.25 Hz, the first frame at once.
    assert {name: sent for name, (sent, *_) in counts.items()} == {"camera": 150, "microphone": 188}
    for sent, *outcomes in counts.values():
        assert sent == sum(outcomes)
    texts = paragraphs(done.stdout)
    assert texts["in all"].startswith("Each of the 338 frames sent got exactly one outcome: ")
    assert re.search(r"In \d+ pictures it saw: .*\b(car|person|bicycle)\b in \d+", texts["camera"])
    heard = re.search(r"It heard speech in (\d+) of (\d+) chunks, and was right in (\d+)", texts["microphone"])
    assert heard
    speech, chunks, right_percent = map(int, heard.groups())
    assert 0 < speech < chunks <= 188
    assert right_percent >= 80


@pytest.mark.timeout(300)
def test_the_overload_demo_tells_who_got_what_on_a_terminal() -> None:
    status, output = on_terminal(command("--overload", "--seconds", "5"))
    assert status == 0, output
    assert "\x1b[" in output  # drawn
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).replace("\r", "")
    assert re.search(r"^\d of 5 s$", plain, re.MULTILINE)
    counts = rows(plain)
    assert list(counts) == ["camera 1", "microphone", "camera 2", "camera 3", "camera 4", "camera 5"]
    for sent, *outcomes in counts.values():
        assert sent == sum(outcomes)
    texts = paragraphs(plain)
    for stream_class in ("critical", "standard", "best effort"):
        assert re.match(r"(<1|\d+) % on time: \d+ of \d+ pictures", texts[stream_class])
    asked = re.match(r"It was asked for [\d.]+ pictures a second, ([\d.]+) times the", texts["machine"])
    assert asked
    assert float(asked[1]) == pytest.approx(3.0, abs=0.3)  # each camera sends whole frames
    total = sum(sent for sent, *_ in counts.values())
    assert texts["in all"].startswith(f"Each of the {total:,} frames sent got exactly one outcome: ")


def on_terminal(arguments: list[str]) -> tuple[int, str]:
    """Exit status and output of a command on a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    output = b""
    with subprocess.Popen(
        arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(TERM="xterm"), start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            while chunk := os.read(ours, 65536):
                output += chunk
        except OSError:  # EIO: how a terminal says that nobody is there any more
            pass
        except BaseException:
            process.terminate()
            raise
        finally:
            os.close(ours)
    return process.returncode, output.decode()


def test_ctrl_c_ends_the_demo_and_all_that_it_started() -> None:
    with subprocess.Popen(
        command("--seconds", "3000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        for line in demo.stdout:
            if line.startswith("The server loads"):
                break
        started = psutil.Process(demo.pid).children(recursive=True)
        assert started
        demo.send_signal(signal.SIGINT)
        assert demo.wait() == 130
        assert demo.stderr.read().strip() == ""
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []


def test_ctrl_c_while_it_streams_ends_the_streams_and_sums_up_what_they_did() -> None:
    with subprocess.Popen(
        command("--seconds", "3000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        shown = []
        for line in demo.stdout:
            shown.append(line)
            if re.match(" +5 s ", line):
                break
        demo.send_signal(signal.SIGINT)
        output = "".join(shown) + demo.stdout.read()
        assert demo.wait() == 130
        assert demo.stderr.read().strip() == ""
    counts = rows(output)
    for sent, *outcomes in counts.values():
        assert 0 < sent == sum(outcomes)
    total = sum(sent for sent, *_ in counts.values())
    assert paragraphs(output)["in all"].startswith(f"Each of the {total:,} frames sent got exactly one outcome: ")


def test_a_server_that_cannot_start_is_told_in_one_line() -> None:
    done = subprocess.run(
        command(), capture_output=True, text=True, env=environment(DULY_STREAMS_MAX="none"), timeout=100
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("duly: the server did not start: environment DULY_STREAMS_MAX: ")


# ---- the server ----


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One model that doubles its input."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    folder = tmp_path / "models" / "double"
    (folder / "1").mkdir(parents=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "1/model.onnx"
    )
    (folder / "model.toml").write_text("batch_sizes = [1]\nwarmup_runs = 1\n")
    return tmp_path / "models"


def server_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "serve" in child.cmdline()]


async def test_the_server_serves_and_is_gone_afterwards(repository: Path) -> None:
    loading: list[str] = []
    async with serving(repository, loading.append) as address, Client(address, reconnect=False) as client:
        assert [model.name for model in await client.models()] == ["double"]
        (server,) = server_processes()
        started = [server, *server.children(recursive=True)]
    assert loading == ["double/1 on cpu:0"]
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
    async with Client(address, reconnect=False) as client:
        with pytest.raises(ServerUnavailable):
            await client.models()


async def test_a_server_that_dies_is_told_with_its_end(repository: Path) -> None:
    async def lose_the_server() -> None:
        async with serving(repository, lambda _: None) as address, Client(address, reconnect=False) as client:
            (server,) = server_processes()
            server.kill()
            while True:  # until the connection breaks
                await client.models()

    with pytest.raises(ServerFailed, match="the server ended by itself: killed by SIGKILL"):
        await lose_the_server()


async def test_a_server_with_nothing_to_serve_is_told_with_its_reason(repository: Path) -> None:
    (repository / "double/1/model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ServerFailed, match=r"the server did not start: no model can be served: .*double/1"):
        async with serving(repository, lambda _: None):
            pass
    assert server_processes() == []


# ---- the model repository ----


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own that has the assets already."""
    fetch(DEMO.assets)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/assets").symlink_to(cache_dir())
    monkeypatch.setenv("DULY_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_repository_is_built_once_and_again_when_what_it_is_made_of_changes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_build = cache / ".demo-models-0123456789abcdef"
    killed_build.mkdir()
    models = prepare_models()
    files = {str(path.relative_to(models)): path.stat().st_mtime_ns for path in models.rglob("*") if path.is_file()}
    assert sorted(files) == [
        "vad/1/model.onnx",
        "vad/model.toml",
        "yolo/1/model.onnx",
        "yolo/coco.names",
        "yolo/model.toml",
    ]
    assert not killed_build.exists()

    assert prepare_models() == models
    assert all((models / name).stat().st_mtime_ns == mtime_ns for name, mtime_ns in files.items())

    templates = tmp_path / "templates"
    shutil.copytree(prepare._TEMPLATES, templates)
    with (templates / "yolo/model.toml").open("a") as file:
        file.write("# changed\n")
    monkeypatch.setattr(prepare, "_TEMPLATES", templates)
    changed = prepare_models()
    assert changed != models
    assert (changed / "yolo/model.toml").read_text().endswith("# changed\n")
    assert not models.exists()


def test_processes_that_build_it_at_once_get_the_same_whole_one(cache: Path) -> None:
    found: list[Path] = []
    builders = [threading.Thread(target=lambda: found.append(prepare_models())) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert (found[0] / "yolo/1/model.onnx").stat().st_size > 40_000_000
    assert sorted(path.name for path in cache.glob("demo-models-*")) == [found[0].name]


# ---- counts and texts ----


def outcome(frame_id: int, status: Status, latency_ns: int = 0, slack_ns: int = 0, reason: str = "") -> Outcome:
    return Outcome(frame_id, status, latency_ns, "1", "default", 1, slack_ns, reason)


def test_a_tally_counts_and_times() -> None:
    tally = Tally()
    assert (tally.on_time_ratio, tally.latency_ns(50), tally.age_ns(5), tally.age_mean_ns) == (None, None, None, None)
    for nth in range(1, 101):
        tally.add(outcome(nth, Status.ON_TIME, latency_ns=nth * MS), captured_ns=1000 * MS)
    tally.add(outcome(101, Status.LATE, latency_ns=1000 * MS), captured_ns=1000 * MS)
    tally.add(outcome(102, Status.EXPIRED, slack_ns=MS), captured_ns=1000 * MS)
    tally.add(outcome(103, Status.SHED, slack_ns=-MS), captured_ns=1000 * MS)
    assert (tally.answered, tally.results, tally.on_time, tally.refused_early) == (103, 101, 100, 1)
    assert tally.on_time_ratio == pytest.approx(100 / 103)
    assert tally.latency_ns(50) == 51 * MS
    assert tally.fault == ""
    tally.add(outcome(104, Status.FAILED, reason="out of memory"), captured_ns=1000 * MS)
    assert tally.fault == "FAILED: out of memory"


def test_age_of_information_grows_until_a_newer_result_comes() -> None:
    tally = Tally()
    tally.add(outcome(1, Status.ON_TIME, latency_ns=10 * MS), captured_ns=100 * MS)  # held from 110: age 10
    assert tally.age_ns(150 * MS) == 50 * MS
    tally.add(outcome(3, Status.ON_TIME, latency_ns=20 * MS), captured_ns=180 * MS)  # at 200: age 100, then 20
    assert tally.age_mean_ns == 55 * MS
    tally.add(outcome(2, Status.LATE, latency_ns=60 * MS), captured_ns=150 * MS)  # older than what is held: no news
    assert (tally.age_ns(230 * MS), tally.age_mean_ns) == (50 * MS, 55 * MS)
    tally.add(outcome(4, Status.ON_TIME, latency_ns=10 * MS), captured_ns=280 * MS)  # at 290: age 110
    assert tally.age_mean_ns == (55 * 90 + 65 * 90) * MS // 180


def test_a_clip_shows_what_its_sensor_captures_at_that_time_and_begins_again() -> None:
    clip = Clip([b"a", b"b", b"c"], 40 * MS)
    assert [clip.at(elapsed_ms * MS) for elapsed_ms in (0, 39, 40, 119, 120, 161)] == [
        (0, b"a"),
        (0, b"a"),
        (1, b"b"),
        (2, b"c"),
        (0, b"a"),
        (1, b"b"),
    ]


def test_speaker_turns_are_read_from_rttm() -> None:
    rttm = "SPKR-INFO a 1 <NA> <NA> <NA> unknown b <NA> <NA>\nSPEAKER a 1 6.690 0.430 <NA> <NA> b <NA> <NA>\n\n"
    assert speaker_turns(rttm) == [(6690 * MS, 7120 * MS)]


def test_nothing_perceived_is_an_empty_text() -> None:
    for perception in (Sight(("person",)), Hearing([True])):
        assert (perception.now(), perception.summary()) == ("", "")


@pytest.mark.parametrize(
    ("ratio", "text"), [(0.0, "0"), (0.001, "<1"), (0.5, "50"), (0.994, "99"), (0.9999, "99"), (1.0, "100")]
)
def test_a_ratio_is_never_rounded_to_all_or_nothing(ratio: float, text: str) -> None:
    assert percent(ratio) == text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_fits_its_terminal(width: int) -> None:
    clip = Clip([b"a"], 40 * MS)
    sensor = Sensor("terminal 1", "fraud", clip, 40 * MS, 0, 50.0, "CRITICAL", "ALL")
    sensor.tally.sent = 1234
    console = Console(width=width, file=io.StringIO())
    console.print(table([sensor], 0, width))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert "…" not in "".join(lines)
    assert ("batch" in lines[-2]) == (width >= 76)
