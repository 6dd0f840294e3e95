"""The demos of all fields as a user meets them: each is prepared, streams for a short while, and is judged."""

import os
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from duly.demo.assets import cache_dir, fetch
from duly.demo.catalogue import DEMOS, demo_named
from tests.demo.running import command, environment, paragraphs

pytestmark = pytest.mark.learn


def run(name: str, seconds: int) -> tuple[str, dict[str, str]]:
    """What a demo prints, and its summary."""
    fetch(demo_named(name).assets, progress=False)  # it would report the download on standard error
    arguments = command(name, "--seconds", str(seconds))
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment(), timeout=280)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    texts = paragraphs(done.stdout)
    assert re.match(r"Each of the [\d,]+ frames sent got exactly one outcome: ", texts["in all"])
    return done.stdout, texts


def numbers(text: str, pattern: str) -> list[int]:
    found = re.search(pattern, text)
    assert found, text
    return [int(number.replace(",", "")) for number in found.groups()]


@pytest.mark.timeout(300)
def test_bedside_finds_ectopic_beats_and_says_how_long_it_took() -> None:
    output, texts = run("bedside", 5)
    assert "AHA database" in output
    assert len(re.findall(r"^bed \d ", output, re.MULTILINE)) >= 6
    beats, ectopic, found = numbers(
        texts["beats"], r"(\d+) beats passed, (\d+) of them ectopic by the cardiologists\. For (\d+) of these"
    )
    assert 20 < beats < 60
    assert 0 < found <= ectopic
    after_ms, *_ = numbers(texts["alarms"], r"They came (\d+) ms after the beat")
    assert after_ms >= 400  # the ECG that has to follow a beat


@pytest.mark.timeout(300)
def test_fraud_is_found_until_fraudsters_change_their_ways_and_labels_reach_the_server() -> None:
    output, texts = run("fraud", 6)
    assert "look generated" in " ".join(output.split())
    found, there = numbers(texts["as learnt"], r"Version 1: ([\d,]+) of ([\d,]+) frauds were found")
    assert found / there > 0.5
    found, there = numbers(texts["changed ways"], r"Version 1: ([\d,]+) of ([\d,]+) frauds were found")
    assert found / there < 0.3
    (labels,) = numbers(texts["learning"], r"([\d,]+) labels reached the server")
    assert labels > 300


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "first", "second"), [("fraud", "changed ways", "changed again"), ("network", "updated", "taken back")]
)
def test_what_a_change_took_comes_back_once_a_version_that_learnt_has_taken_over(
    name: str, first: str, second: str
) -> None:
    _, texts = run(name, 60)
    for heading in (first, second):
        (back,) = numbers(texts[heading], r"Of what was lost, (\d+)% came back without a hand")
        assert back >= 90
    assert re.search(r"It saw drift: at label \d+", texts["learning"])
    assert "took over while frames went on" in texts["learning"]


@pytest.mark.timeout(300)
def test_machine_finds_abnormal_readings_and_the_faults_of_bearings() -> None:
    _, texts = run("machine", 12)
    found, there = numbers(texts["telemetry"], r"(\d+) of (\d+) abnormal readings were found")
    assert found / there > 0.8
    assert texts["bearing 1"].startswith("Sound, by how it was made.")
    assert re.match(r"Its fault was found \d\.\d s after it began to grow\.", texts["bearing 2"])


@pytest.mark.timeout(300)
def test_network_turns_phishing_away() -> None:
    _, texts = run("network", 4)
    found, there, false, others = numbers(
        texts["as learnt"], r"Version 1: (\d+) of (\d+) phishing sites were found .*? (\d+) of (\d+) honest sites"
    )
    assert found / there > 0.8
    assert false / others < 0.15


@pytest.mark.timeout(300)
def test_images_are_read_as_their_ground_truth() -> None:
    _, texts = run("images", 4)
    grey, white = re.findall(r"matter 0\.(\d\d) \(", texts["truth"])
    assert int(grey) >= 93
    assert int(white) >= 93


@pytest.mark.timeout(300)
def test_vehicle_tells_its_motion_by_lidar_radar_and_imu() -> None:
    output, texts = run("vehicle", 5)
    assert re.search(r"^lidar +critical", output, re.MULTILINE)
    off_m = re.search(r"off by ([\d.]+) m from the ground truth on average", texts["lidar"])
    assert off_m
    assert float(off_m[1]) < 0.15
    off_mps = re.search(r"off by ([\d.]+) m/s from the ground truth on average", texts["radar"])
    assert off_mps
    assert float(off_mps[1]) < 0.2
    right = re.search(r"([\d.]+)% of \d+ answers were right", texts["IMU"])
    assert right
    assert float(right[1]) > 85


@pytest.mark.timeout(300)
def test_a_demo_that_learns_leaves_nothing_behind_when_it_is_ended(tmp_path: Path) -> None:
    fetch(demo_named("network").assets, progress=False)
    with subprocess.Popen(
        command("network", "--seconds", "3000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TMPDIR=str(tmp_path)),
    ) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        for line in demo.stdout:
            if re.match(" +5 s ", line):
                break
        started = psutil.Process(demo.pid).children(recursive=True)
        folders = list(tmp_path.glob("duly-demo-*"))
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(timeout=60) == 128 + signal.SIGTERM
        assert demo.stderr.read().strip() == ""
    assert folders
    assert len(started) >= 3  # the server, its worker, and what keeps frames or learns from them
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
    assert list(tmp_path.glob("duly-demo-*")) == []


def test_the_list_names_every_demo() -> None:
    done = subprocess.run(command("--list"), capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^(\w+)  ", done.stdout, re.MULTILINE) == list(DEMOS)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["ship"], "'ship' is not one of 'street', "), (["fraud", "--overload"], "--overload is of the demo street")],
)
def test_what_no_demo_can_do_is_told(arguments: list[str], complaint: str) -> None:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_a_demo_without_the_packages_that_train_says_which_to_install(tmp_path: Path) -> None:
    fetch(demo_named("network").assets, progress=False)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "assets").symlink_to(cache_dir())
    blocked = tmp_path / "blocked/sklearn/__init__.py"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("raise ModuleNotFoundError('No module named sklearn', name='sklearn')\n")
    variables = environment(DULY_CACHE_DIR=str(cache))
    variables["PYTHONPATH"] = os.pathsep.join((str(tmp_path / "blocked"), variables["PYTHONPATH"]))
    done = subprocess.run(command("network"), capture_output=True, text=True, env=variables, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("trains its models with sklearn, which is not installed: pip install 'duly[cpu,demo,learn]'")
