"""`duly demo vehicle`: two cameras, a lidar, a radar and an IMU on one machine. The lidar is critical."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duly.demo import darknet, motion, training
from duly.demo.clips import Clip, read_clip
from duly.demo.description import Demo, Files
from duly.demo.judgement import Naming
from duly.demo.perception import Perception, Sight
from duly.demo.sensors import Sensor
from duly.demo.street import CAMERA_BUDGET_MS, CAMERA_FRAMES, YOLO_ASSETS, budget_ms, labels_of, make_yolo, watched
from duly.demo.summary import perceived
from duly_client import Client, Outcome
from duly_client.types import BacklogPolicy, StreamClass

FRONT_HZ, CABIN_HZ, LIDAR_HZ, RADAR_HZ, IMU_HZ = 6, 2, 5, 10, 10
LIDAR_BUDGET_MS, RADAR_BUDGET_MS, IMU_BUDGET_MS = 200.0, 150.0, 150.0
CABIN_FRAMES = (0, 90)

LIDAR_PAIRS = 16
EXTRA_SHIFT_M = 0.6
"""Besides how the vehicle truly moved, each pair of scans is moved along both axes by up to so much, which is known."""

RADAR_FRAMES = 64
TOP_SPEED_MPS = 4.0

MOTIONS = ("Badminton", "Running", "Standing", "Walking")
WINDOW_SAMPLES = 30
WINDOWS_PER_CASE = 20

Points = npt.NDArray[np.float32]


# ---- lidar: real, with ground truth ----


def read_points(path: Path) -> Points:
    """Reads the points of a binary PLY file whose vertices are floats, the first three of them x, y and z, in metres.

    Points at the origin are pulses that never came back, and left out.
    """
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    vertices = next(int(line.split()[-1]) for line in lines if line.startswith("element vertex"))
    points = np.frombuffer(body, "<f4").reshape(vertices, -1)[:, :3]
    back: Points = points[np.abs(points).sum(axis=1) > 0]
    return back


def scan_pairs(files: Files) -> tuple[list[Points], list[npt.NDArray[np.float64]]]:
    """Returns pairs of scans [2, SCAN_POINTS, 3], and how far what stands still moved from the first to the second."""
    first, second = read_points(files["source.ply"]), read_points(files["target.ply"])
    moved = np.loadtxt(files["T_target_source.txt"])[:2, 3]
    random = np.random.default_rng(training.SEED)
    pairs, shifts = [], []
    for _ in range(LIDAR_PAIRS):
        extra = random.uniform(-EXTRA_SHIFT_M, EXTRA_SHIFT_M, 2)
        drawn = [random.choice(scan, motion.SCAN_POINTS, replace=False) for scan in (first, second)]
        drawn[1] = drawn[1] + np.append(extra, 0)
        pairs.append(np.stack(drawn).astype(np.float32))
        shifts.append(moved + extra)
    return pairs, shifts


# ---- radar: a real frame, at speeds that are known ----


def radar_frames(path: Path) -> tuple[list[npt.NDArray[np.int16]], list[npt.NDArray[np.float64]]]:
    """Returns frames [CHIRPS, ANTENNAS, SAMPLES, 2] of a drive of RADAR_FRAMES, and the true speeds, [1] each.

    The radar stood still when its frame was taken. A radar that moves sees the phase of everything turn from chirp to
    chirp, by as much as its speed says; so each frame is the real one, turned by a speed that is known.
    """
    stored = np.load(path)[:, : motion.ANTENNAS]
    still = stored.real.astype(np.int16) + 1j * stored.imag.astype(np.int16)  # stored as if it had no sign
    chirps = np.arange(motion.CHIRPS)[:, None, None]
    frames, speeds = [], []
    for number in range(RADAR_FRAMES):
        speed_mps = TOP_SPEED_MPS * np.sin(2 * np.pi * number / RADAR_FRAMES)
        turned = still * np.exp(2j * np.pi * chirps * (speed_mps / motion.SPEED_RESOLUTION_MPS) / motion.CHIRPS)
        frames.append(np.rint(np.stack([turned.real, turned.imag], axis=-1)).astype(np.int16))
        speeds.append(np.array([speed_mps]))
    return frames, speeds


# ---- IMU: real, with ground truth ----


def read_cases(path: Path) -> list[tuple[training.Floats, int]]:
    """Reads a file in the format of the UEA archive: six channels [6, samples] a case, and its index in MOTIONS."""
    cases = []
    for line in path.read_text("utf-8").splitlines():
        if line and line[0] not in "#@":
            *channels, name = line.split(":")
            samples = np.array([channel.split(",") for channel in channels], np.float32)
            cases.append((samples, MOTIONS.index(name.strip())))
    return cases


def windows(samples: training.Floats) -> list[training.Floats]:
    """The newest WINDOW_SAMPLES of all channels, at each sample from the first full window on."""
    ends = range(WINDOW_SAMPLES, samples.shape[1] + 1)
    return [samples[:, end - WINDOW_SAMPLES : end].reshape(-1) for end in ends]


# ---- the demo ----


class Measuring:
    """Perceives a vector, such as a shift in the plane, and how far it is from the true one."""

    def __init__(self, truth: Sequence[npt.NDArray[np.float64]], output: str, what: str, unit: str) -> None:
        self._truth, self._output, self._what, self._unit = truth, output, what, unit
        self._newest: npt.NDArray[np.float32] | None = None
        self.errors: list[float] = []

    def take(self, index: int, outcome: Outcome) -> None:
        self._newest = outcome.outputs[self._output]
        self.errors.append(float(np.linalg.norm(self._newest - self._truth[index])))

    def now(self) -> str:
        if self._newest is None:
            return ""
        value = " and ".join(f"{part:.2f}" for part in self._newest)
        return f"{self._what} {value} {self._unit}, off by {self.errors[-1]:.2f}"

    def summary(self) -> str:
        if not self.errors:
            return ""
        return (
            f"{self._what.capitalize()} was off by {np.mean(self.errors):.2f} {self._unit} from the ground truth on "
            f"average, by {max(self.errors):.2f} at worst, over {len(self.errors)} answers."
        )


class Driver(Sight):
    """Perceives boxes in pictures of which each shows a person."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        super().__init__(labels)
        self.pictures = self.with_person = 0

    def take(self, index: int, outcome: Outcome) -> None:
        super().take(index, outcome)
        self.pictures += 1
        self.with_person += any(label == "person" for label, _ in self.boxes)

    def summary(self) -> str:
        if not self.pictures:
            return ""
        return f"The driver, who is in each of them, was seen in {self.with_person} of {self.pictures}."


def _make(files: Files, models: Path) -> None:
    make_yolo(files, models)
    motion.write_scan_matching(models / "lidar/1/model.onnx")
    motion.write_own_speed(models / "radar/1/model.onnx")
    cases = read_cases(files["BasicMotions_TRAIN.ts"])
    rows = np.stack([window for samples, _ in cases for window in windows(samples)])
    truth = np.array([number for samples, number in cases for _ in windows(samples)])
    training.write_forest(models / "motion/1/model.onnx", rows, truth)


async def _sensors(client: Client, files: Files) -> list[Sensor]:
    async with client.stream("yolo") as stream:
        terms = stream.opened
    front = await asyncio.to_thread(read_clip, files["bikes.mp4"], terms, *CAMERA_FRAMES)
    cabin = await asyncio.to_thread(read_clip, files["carphone_pristine.mp4"], terms, *CABIN_FRAMES)
    planned_ns, labels = terms.planned_latency_ns, labels_of(terms)
    pairs, shifts = await asyncio.to_thread(scan_pairs, files)
    frames, speeds = await asyncio.to_thread(radar_frames, files["doppler_example_1.npy"])
    cases = read_cases(files["BasicMotions_TEST.ts"])
    # A quarter of the cases are of each motion, one after the other; here they take turns.
    turns = [cases[start + number * len(cases) // 4] for start in range(len(cases) // 4) for number in range(4)]
    moves = [(window, number) for samples, number in turns for window in windows(samples)[-WINDOWS_PER_CASE:]]

    def period_ns(rate_hz: int) -> int:
        return 1_000_000_000 // rate_hz

    picture_ms = budget_ms(CAMERA_BUDGET_MS, planned_ns)
    lidar_clip, radar_clip = Clip(list(pairs), period_ns(LIDAR_HZ)), Clip(list(frames), period_ns(RADAR_HZ))
    imu_clip = Clip([window for window, _ in moves], period_ns(IMU_HZ))
    lidar = Measuring(shifts, "shift", "the scene moved", "m")
    radar = Measuring(speeds, "speed", "own speed", "m/s")
    imu = Naming([number for _, number in moves], MOTIONS)
    plan: tuple[tuple[str, str, Clip, int, float, StreamClass, BacklogPolicy, Perception], ...] = (
        ("lidar", "lidar", lidar_clip, LIDAR_HZ, budget_ms(LIDAR_BUDGET_MS, planned_ns), "CRITICAL", "LATEST", lidar),
        ("front", "yolo", front, FRONT_HZ, picture_ms, "STANDARD", "LATEST", Sight(labels)),
        ("radar", "radar", radar_clip, RADAR_HZ, budget_ms(RADAR_BUDGET_MS, planned_ns), "STANDARD", "LATEST", radar),
        ("IMU", "motion", imu_clip, IMU_HZ, budget_ms(IMU_BUDGET_MS, planned_ns), "STANDARD", "ALL", imu),
        ("cabin", "yolo", cabin, CABIN_HZ, picture_ms, "BEST_EFFORT", "LATEST", Driver(labels)),
    )
    return [
        Sensor(name, model, clip, period_ns(rate_hz), 0, budget, stream_class, backlog, perception)
        for name, model, clip, rate_hz, budget, stream_class, backlog, perception in plan
    ]


def _words(sensors: list[Sensor], seconds: float) -> str:
    rates = ", ".join(f"{sensor.name} {sensor.rate_hz:g}" for sensor in sensors)
    return (
        f"Streaming for {seconds:g} s, frames a second: {rates}. Real, with ground truth: two scans of a vehicle's "
        "lidar and how it moved between them (each pair is moved on by a known amount), an IMU (a watch's, since no "
        "package was found that ships a vehicle's), and the driver, who is always there. Real, at a speed that is "
        "known as it was added: a radar's frame. Real, without ground truth: the street ahead. The lidar is critical, "
        f"and wanted within {sensors[0].budget_ms:g} ms whatever else runs."
    )


def _summary(sensors: list[Sensor]) -> dict[str, str]:
    texts = {}
    for sensor in sensors:
        if sensor.model == "yolo":
            texts[sensor.name] = watched(sensor)
        else:
            texts[sensor.name] = f"{sensor.tally.on_time} of {sensor.tally.sent} in time. {perceived(sensor)}"
    return texts


DEMO = Demo(
    name="vehicle",
    assets=(
        *YOLO_ASSETS,
        "bikes.mp4",
        "carphone_pristine.mp4",
        "source.ply",
        "target.ply",
        "T_target_source.txt",
        "doppler_example_1.npy",
        "BasicMotions_TRAIN.ts",
        "BasicMotions_TEST.ts",
    ),
    models=("yolo", "lidar", "radar", "motion"),
    made_by=(Path(__file__), Path(motion.__file__), Path(darknet.__file__)),
    make=_make,
    sensors=_sensors,
    words=_words,
    summary=_summary,
)
