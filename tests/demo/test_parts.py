"""What demos are made of: readers of files, graphs against numpy, and judgements counted by hand."""

import gzip
import os
import struct
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from duly.demo import machine, motion
from duly.demo.bedside import HOP_SAMPLES, WINDOW_SAMPLES, Monitor, read_beats, read_signal
from duly.demo.catalogue import DEMOS, demo_named
from duly.demo.changing import Scoring, learnt
from duly.demo.clips import Clip
from duly.demo.fraud import SAME_SUM, changed_ways
from duly.demo.images import read_volume, tissue
from duly.demo.judgement import Naming, Verdicts, Words
from duly.demo.machine import CHUNK, Watch, vibration, write_departure
from duly.demo.prepare import _TEMPLATES
from duly.demo.sensors import Labels, Sensor
from duly.demo.serving import Event
from duly.demo.vehicle import read_points
from duly_client import FeedbackStatus, Outcome, Status

WORDS = Words(yes="YES", no="no", things="apples", others="pears")


def answer(latency_ns: int = 0, **outputs: npt.ArrayLike) -> Outcome:
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    return Outcome(1, Status.ON_TIME, latency_ns, "1", "default", 1, 0, "", _arrays=arrays)


def run(path: Path, **inputs: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, inputs)
    assert isinstance(output, np.ndarray)
    return output


# ---- files ----


def test_twelve_bit_signals_are_read_with_their_signs(tmp_path: Path) -> None:
    # WFDB's format 212: the low byte of the first, both upper halves, the low byte of the second.
    path = tmp_path / "record.dat"
    path.write_bytes(bytes([0x90, 0x01, 0x00, 0xFF, 0xFF, 0xFF]))  # 400 and 0; -1 and -1
    assert read_signal(path).tolist() == [[1.0, pytest.approx(-1 / 400)], [0.0, pytest.approx(-1 / 400)]]


def test_beats_are_read_from_annotations(tmp_path: Path) -> None:
    def word(code: int, value: int) -> bytes:
        return struct.pack("<H", code << 10 | value)

    path = tmp_path / "record.atr"
    path.write_bytes(
        word(63, 3)  # AUX: three bytes of text and one to make it even
        + b"abc\0"
        + word(59, 0)
        + struct.pack("<HH", 1, 2)  # SKIP: 65,538 samples
        + word(1, 10)  # N
        + word(28, 5)  # a change of rhythm is no beat, and takes its time
        + word(5, 7)  # V
        + word(0, 0)
        + word(5, 1)  # behind the end
    )
    assert read_beats(path) == [(65_548, False), (65_560, True)]


def test_a_volume_is_read_and_its_tissue_is_what_there_is_most_of(tmp_path: Path) -> None:
    header = bytearray(352)
    header[40:56] = struct.pack("<8h", 3, 4, 2, 1, 1, 1, 1, 1)
    header[108:112] = struct.pack("<f", 352.0)
    path = tmp_path / "grey.nii.gz"
    path.write_bytes(gzip.compress(bytes(header) + bytes([0, 127, 128, 200, 255, 0, 90, 10])))
    grey = read_volume(path)
    assert grey.shape == (1, 2, 4)
    white = np.array([[[0, 0, 0, 201, 0, 255, 127, 10]]], np.uint8).reshape(grey.shape)
    assert tissue(grey, white).reshape(-1).tolist() == [0, 0, 1, 2, 1, 2, 0, 0]


def test_points_that_never_came_back_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "scan.ply"
    header = b"ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\nend_header\n"
    path.write_bytes(header + np.array([[1, 2, 3, 9], [0, 0, 0, 9], [4, 5, 6, 9]], "<f4").tobytes())
    assert read_points(path).tolist() == [[1, 2, 3], [4, 5, 6]]


# ---- graphs ----


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, -1.2), (-3.0, 2.0)])
def test_scan_matching_tells_how_far_what_stands_still_moved(tmp_path: Path, shift: tuple[float, float]) -> None:
    path = tmp_path / "model.onnx"
    motion.write_scan_matching(path)
    random = np.random.default_rng(1)
    # Walls are what a map is told apart by: 40 of them, and as many points of road and roof, which do not count.
    corners, along = random.uniform(-9, 9, (40, 2)), random.uniform(0, 2, (motion.SCAN_POINTS // 2, 1))
    directions = random.choice([-1.0, 1.0], (40, 2)) * np.eye(2)[random.integers(0, 2, 40)]
    walls = np.arange(motion.SCAN_POINTS // 2) % 40
    xy = np.concatenate([corners[walls] + along * directions[walls], random.uniform(-9, 9, (len(walls), 2))])
    z = np.concatenate([np.zeros(len(walls)), np.where(walls % 2, -2.0, 5.0)])
    first = np.column_stack([xy, z])
    second = first + np.append(shift, 0.0)
    found = run(path, scans=np.stack([first, second])[None].astype(np.float32))
    assert np.abs(found[0] - shift).max() <= motion.CELL_M + 1e-6


@pytest.mark.parametrize("speed_bins", [0, 17, -40])
def test_own_speed_is_that_of_what_stands_still(tmp_path: Path, speed_bins: int) -> None:
    path = tmp_path / "model.onnx"
    motion.write_own_speed(path)
    chirps, samples = np.arange(motion.CHIRPS)[:, None, None], np.arange(motion.SAMPLES)[None, None, :]
    still = sum(np.exp(2j * np.pi * place * samples / motion.SAMPLES) for place in (5.0, 31.5, 77.0))
    moving = np.exp(2j * np.pi * (40 * samples / motion.SAMPLES + 11 * chirps / motion.CHIRPS))
    seen = (still + moving) * np.exp(2j * np.pi * speed_bins * chirps / motion.CHIRPS)
    seen = 50 * np.repeat(seen, motion.ANTENNAS, axis=1)
    frame = np.rint(np.stack([seen.real, seen.imag], axis=-1)).astype(np.int16)[None]
    assert run(path, frame=frame).item() == pytest.approx(speed_bins * motion.SPEED_RESOLUTION_MPS, abs=1e-6)


def test_departure_is_beyond_the_limit_for_a_grown_fault_and_for_one_sound_chunk_in_a_thousand(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_departure(path, vibration(60.0, None, seed=1).reshape(-1, CHUNK))
    sound = run(path, x=vibration(30.0, None, seed=2).reshape(-1, CHUNK))
    assert (sound > 1).mean() < 0.02
    failing = run(path, x=vibration(20.0, 1.0, seed=3).reshape(-1, CHUNK))
    begins = round(machine.FAULT_BEGINS_S * machine.SAMPLES_HZ) // CHUNK
    assert (failing[:begins] > 1).mean() < 0.05
    assert (failing[-20:] > 1).all()


# ---- judgements ----


def test_verdicts_count_what_was_found_missed_and_false() -> None:
    verdicts = Verdicts([True, True, False, False], WORDS, 0.5)
    assert (verdicts.now(), verdicts.summary()) == ("", "")
    for index, yes in enumerate((0.9, 0.4, 0.5, 0.1)):
        verdicts.take(index, answer(probabilities=[1 - yes, yes]))
    assert verdicts.now() == "no 0.10; 1 of 2 apples found, 1 false alarms"
    assert verdicts.summary() == (
        "1 of 2 apples were found (50%). 1 of 2 pears were taken for one (50.0%). "
        "50.0% of 4 answers were right by the ground truth."
    )


def test_verdicts_where_there_was_nothing_to_find() -> None:
    verdicts = Verdicts([False], WORDS, 0.5)
    verdicts.take(0, answer(probabilities=[1.0, 0.0]))
    assert verdicts.summary().startswith("There were no apples among what was answered. 0 of 1 pears")


def test_naming_compares_with_the_true_name() -> None:
    naming = Naming([0, 1], ("walking", "running"))
    naming.take(0, answer(label=[0]))
    naming.take(1, answer(label=[0]))
    assert naming.now() == "walking; 1 of 2 right"
    assert naming.summary() == "50.0% of 2 answers were right by the ground truth."


def test_a_monitor_judges_alarms_by_the_beats_that_passed() -> None:
    # Windows end at 1000, 1025, ...: an alarm in the window that ends at E is for a beat at about E - 112.
    beats = [(880, False), (950, True), (1100, True), (1400, True), (9000, True)]
    monitor = Monitor(1000, beats)
    yes = {1050, 1075, 1350}  # twice for the beat at 950; for none: 1238
    for index in range(30):
        end = 1000 + index * HOP_SAMPLES
        likely = 0.9 if end in yes else 0.1
        monitor.take(index, answer(latency_ns=7_000_000, probabilities=[1 - likely, likely]))
    assert [alarm.sample for alarm in monitor.alarms] == [938, 1238]
    assert monitor.alarms[0].after_ns == 112 * 4_000_000 + 7_000_000
    assert monitor.judged() == (4, 3, 1, 1)
    assert WINDOW_SAMPLES > 112


def test_a_bearing_is_found_after_three_chunks_in_a_row() -> None:
    watch = Watch(fault_begins=5)
    for index, score in enumerate((0.5, 2.0, 2.0, 0.5, 0.5, 2.0, 2.0, 2.0, 2.0)):
        watch.take(index, answer(score=score))
    assert (watch.false, watch.found_after) == (0, 2)
    sound = Watch(fault_begins=None)
    for index in range(3):
        sound.take(index, answer(score=1.5))
    assert sound.summary() == "Sound, by how it was made. 1 false alarms."


def test_fraudsters_change_their_ways_and_nobody_else() -> None:
    rows = np.array([[95_000, 1], [500, 1], [500, 0]], np.float32)
    fraud = np.array([True, True, False])
    assert changed_ways(rows, fraud, 0).tolist() == rows.tolist()
    assert changed_ways(rows, fraud, 1).tolist() == [[95, 1], [500, 1], [500, 0]]
    assert changed_ways(rows, fraud, 2).tolist() == [[SAME_SUM + 95, 1], [500, 1], [500, 0]]
    scoring = Scoring([True, True], [1], WORDS, 0.5)
    scoring.take(0, answer(probabilities=[0.1, 0.9]))
    scoring.take(1, answer(probabilities=[0.9, 0.1]))
    assert scoring.counts == {(0, "1"): {(True, True): 1}, (1, "1"): {(True, False): 1}}
    assert scoring.now() == "no 0.10 by version 1; 1 of the last 2 right"


# ---- the catalogue ----


@pytest.mark.parametrize("name", DEMOS)
def test_each_demo_is_whole(name: str) -> None:
    from duly.demo.assets import ASSETS

    demo = demo_named(name)
    assert demo.name == name
    assert set(demo.assets) <= set(ASSETS)
    assert all((_TEMPLATES / model / "model.toml").is_file() for model in demo.models)
    assert all(path.is_file() for path in demo.made_by)


# ---- a model that learns ----


def test_what_was_learnt_is_told_by_versions_and_by_what_came_back() -> None:
    sensor = Sensor("gateway", "sites", Clip([b"x"], 1), 1, 0, 50.0, "CRITICAL", "ALL")
    scoring = Scoring([True] * 30, [10], WORDS, 0.5)
    sensor.perception, sensor.labels = scoring, Labels([1] * 30, 0)
    sensor.labels.by_status[FeedbackStatus.JOINED] = 1200
    for index in range(30):
        # All right before the change, none after it, and four of five with version 2.
        yes = 0.9 if index < 10 or (index >= 20 and index % 5) else 0.1
        version = "2" if index >= 20 else "1"
        outcome = Outcome(index, Status.ON_TIME, 0, version, _arrays={"probabilities": np.array([1 - yes, yes])})
        scoring.take(index, outcome)
    log = [
        {"event": "drift", "signal": "errors", "at": 15},
        {"event": "drift", "signal": "input.x[0]", "at": 14},
        {"event": "an attempt at a new version has ended", "result": "refused"},
        {"event": "an attempt at a new version has ended", "result": "published"},
        {"event": "trial", "model": "sites/2", "stage": "SHADOW"},
        {"event": "trial", "model": "sites/2", "stage": "ACTIVE"},
        {"event": "trial", "model": "sites/2", "stage": "ACTIVE", "log": "duly.audit"},
    ]
    texts = learnt([sensor], [Event(0, entry) for entry in log], ("as learnt", "changed"))
    assert texts["as learnt"].startswith("Version 1: 10 of 10 apples were found (100%).")
    assert "Version 1: 0 of 10 apples" in texts["changed"]
    assert "Version 2: 8 of 10 apples" in texts["changed"]
    assert texts["changed"].endswith("Of what was lost, 80% came back without a hand.")
    assert texts["learning"] == (
        "1,200 labels reached the server. It saw drift: at label 15 errors were others than before. It made 1 new "
        "version, better on labels that were held back. 1 attempt came to no better one. sites/2 went through shadow "
        "and canary, and took over while frames went on."
    )


def test_nothing_learnt_yet_is_said() -> None:
    sensor = Sensor("gateway", "sites", Clip([b"x"], 1), 1, 0, 50.0, "CRITICAL", "ALL")
    sensor.perception, sensor.labels = Scoring([True], [10], WORDS, 0.5), Labels([1], 0)
    texts = learnt([sensor], [], ("as learnt", "changed"))
    assert texts == {"learning": "0 labels reached the server. In this time it made no new version."}
