"""`duly demo machine`: the sensors of a machine, and the vibration of three bearings of which two begin to fail."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from duly.demo import training
from duly.demo.clips import Clip
from duly.demo.description import Demo, Files
from duly.demo.judgement import Verdicts, Words
from duly.demo.sensors import Sensor
from duly.demo.summary import perceived
from duly_client import Client, Outcome

# ---- telemetry: real ----

LEARNT_READINGS = 30_000
"""The first readings, from whose sound ones the model learns; of the others the ground truth is looked at."""
TELEMETRY_HZ = 20
TELEMETRY_BUDGET_MS = 100.0
FALSE_ALARMS = 0.01
"""Share of sound readings that the model may call out of the ordinary."""

_READINGS = Words(yes="OUT OF THE ORDINARY", no="sound", things="abnormal readings", others="sound readings")


def read_telemetry(path: Path) -> tuple[training.Floats, npt.NDArray[np.bool_]]:
    """Reads what nine sensors showed, [N, 9], and whether it is abnormal, [N]."""
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1, dtype=np.float32)
    return table[:, :-1], table[:, -1] > 0


# ---- vibration: made, as no package ships it ----

SAMPLES_HZ = 10_240
CHUNK = 1024
"""Samples that a sensor sends at once, 0.1 s."""
BANDS = 16
SHAFT_HZ = 29.5
STRIKES_PER_TURN = 3.57
"""How often a ball passes a fault of the outer ring in a turn of the shaft; that of an ordinary deep-groove bearing."""
RESONANCE_HZ = 3_100.0
DECAY_PER_S = 800.0
FAULT_BEGINS_S, FAULT_GROWS_S, RECORDING_S = 6.0, 8.0, 20.0
"""A fault begins, grows to its full size in so long, and stays until the recording ends."""
BEARINGS = (("bearing 1", None), ("bearing 2", 1.0), ("bearing 3", 0.5))
"""Name of each bearing, and how hard its fault strikes when it is grown, in terms of the noise; None: it is sound."""
ALARM_QUANTILE = 0.999
VIBRATION_BUDGET_MS = 100.0


def vibration(seconds: float, fault: float | None, seed: int) -> training.Floats:
    """Makes the vibration of a bearing, after McFadden and Smith, "Model for the vibration produced by a single point
    defect in a rolling element bearing", J. Sound and Vibration 96 (1984): noise, the shaft's own turns, and at each
    passing ball a strike that makes the housing ring.
    """
    random = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * SAMPLES_HZ)) / SAMPLES_HZ
    turns = sum(
        weight * np.sin(2 * np.pi * (order * SHAFT_HZ * time_s + random.random()))
        for order, weight in ((1, 1.0), (2, 0.4), (3, 0.2))
    )
    signal = random.normal(size=len(time_s)) + turns
    if fault is not None:
        gap_s = 1 / (STRIKES_PER_TURN * SHAFT_HZ)
        strikes_s = np.arange(FAULT_BEGINS_S, seconds, gap_s)
        strikes_s += random.normal(scale=0.01 * gap_s, size=len(strikes_s))  # balls slip a little
        ringing_s = np.arange(round(0.008 * SAMPLES_HZ)) / SAMPLES_HZ
        ringing = np.exp(-DECAY_PER_S * ringing_s) * np.sin(2 * np.pi * RESONANCE_HZ * ringing_s)
        for strike_s in strikes_s:
            size = 8 * fault * min(1.0, (strike_s - FAULT_BEGINS_S) / FAULT_GROWS_S)
            at = round(strike_s * SAMPLES_HZ)
            length = min(len(ringing), len(signal) - at)
            signal[at : at + length] += size * ringing[:length]
    return signal.astype(np.float32)


def _features(chunks: training.Floats) -> npt.NDArray[np.float64]:
    """Logarithm of the power in each band of the spectrum, and of the kurtosis, [N, BANDS + 1], as the graph does."""
    spectrum = np.abs(np.fft.rfft(chunks.astype(np.float64), axis=1)[:, : CHUNK // 2]) ** 2
    power = spectrum.reshape(len(chunks), BANDS, -1).sum(axis=2)
    squares = (chunks.astype(np.float64)) ** 2
    kurtosis = (squares**2).mean(axis=1) / squares.mean(axis=1) ** 2
    features: npt.NDArray[np.float64] = np.log(np.concatenate([power, kurtosis[:, None]], axis=1))
    return features


def write_departure(path: Path, sound: training.Floats) -> None:
    """Writes a graph `x f32[n, CHUNK]` → `score f32[n]`: the Mahalanobis distance of a chunk's features from those of
    `sound` chunks, in terms of the distance that one in a thousand of them exceeds.
    """
    features = _features(sound)
    mean, inverse = features.mean(axis=0), np.linalg.inv(np.cov(features.T) + 1e-6 * np.eye(BANDS + 1))
    away = features - mean
    limit = np.quantile(np.einsum("ni,ij,nj->n", away, inverse, away), ALARM_QUANTILE)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(CHUNK), np.arange(CHUNK // 2)) / CHUNK)
    pooled = np.kron(np.eye(BANDS), np.ones((CHUNK // 2 // BANDS, 1)))
    constants = {
        "cosines": waves.real,
        "sines": waves.imag,
        "pooled": pooled,
        "mean": mean,
        "inverse": inverse / limit,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "cosines"], ["real"]),
        helper.make_node("MatMul", ["x", "sines"], ["imaginary"]),
        helper.make_node("Mul", ["real", "real"], ["real2"]),
        helper.make_node("Mul", ["imaginary", "imaginary"], ["imaginary2"]),
        helper.make_node("Add", ["real2", "imaginary2"], ["spectrum"]),
        helper.make_node("MatMul", ["spectrum", "pooled"], ["power"]),
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("Mul", ["squares", "squares"], ["fourths"]),
        helper.make_node("ReduceMean", ["squares"], ["second"], axes=[1]),
        helper.make_node("ReduceMean", ["fourths"], ["fourth"], axes=[1]),
        helper.make_node("Mul", ["second", "second"], ["second2"]),
        helper.make_node("Div", ["fourth", "second2"], ["kurtosis"]),
        helper.make_node("Concat", ["power", "kurtosis"], ["raw"], axis=1),
        helper.make_node("Log", ["raw"], ["features"]),
        helper.make_node("Sub", ["features", "mean"], ["away"]),
        helper.make_node("MatMul", ["away", "inverse"], ["weighed"]),
        helper.make_node("Mul", ["weighed", "away"], ["products"]),
        helper.make_node("ReduceSum", ["products", "axis"], ["score"], keepdims=0),
    ]
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    weights.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", CHUNK])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph(nodes, "departure", [x], [score], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", training.OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


class Watch:
    """Perceives when a bearing departs from what is usual. An alarm needs three chunks in a row, since one in a
    thousand of a sound bearing's does.
    """

    IN_A_ROW = 3

    def __init__(self, fault_begins: int | None) -> None:
        """`fault_begins`: the first chunk of the clip with a fault in it; None: there is none."""
        self._fault_begins = fault_begins
        self._row = 0
        self._score: float | None = None
        self.chunks = self.false = 0
        self.reached_fault = False
        self.found_after: int | None = None
        """Chunks from the beginning of the fault until the alarm."""

    def take(self, index: int, outcome: Outcome) -> None:
        self._score = float(outcome.outputs["score"])
        self.chunks += 1
        self._row = self._row + 1 if self._score > 1 else 0
        begun = self._fault_begins is not None and index >= self._fault_begins
        self.reached_fault |= begun
        if self._row == self.IN_A_ROW:
            if not begun:
                self.false += 1
            elif self.found_after is None and self._fault_begins is not None:
                self.found_after = index - self._fault_begins

    def now(self) -> str:
        if self._score is None:
            return ""
        return f"{'FAULT' if self._row >= self.IN_A_ROW else 'sound'}, {self._score:.1f} times the limit"

    def summary(self) -> str:
        if self.chunks == 0:
            return ""
        false = f" {self.false} false alarms." if self.false else " No false alarm."
        if not self.reached_fault:
            return f"Sound, by how it was made.{false}"
        if self.found_after is None:
            return f"Its fault was not found.{false}"
        return f"Its fault was found {self.found_after * CHUNK / SAMPLES_HZ:.1f} s after it began to grow.{false}"


# ---- the demo ----


def _make(files: Files, models: Path) -> None:
    readings, abnormal = read_telemetry(files["shuttle.csv.gz"])
    sound = readings[:LEARNT_READINGS][~abnormal[:LEARNT_READINGS]]
    training.write_isolation_forest(models / "telemetry/1/model.onnx", sound[::3], FALSE_ALARMS)
    write_departure(models / "vibration/1/model.onnx", vibration(120.0, None, training.SEED).reshape(-1, CHUNK))


async def _sensors(client: Client, files: Files) -> list[Sensor]:
    readings, abnormal = read_telemetry(files["shuttle.csv.gz"])
    period_ns = 1_000_000_000 // TELEMETRY_HZ
    clip = Clip(list(readings[LEARNT_READINGS:]), period_ns)
    verdicts = Verdicts(abnormal[LEARNT_READINGS:].tolist(), _READINGS, 0.0, _below_zero)
    sensors = [Sensor("telemetry", "telemetry", clip, period_ns, 0, TELEMETRY_BUDGET_MS, "STANDARD", "ALL", verdicts)]
    period_ns = CHUNK * 1_000_000_000 // SAMPLES_HZ
    for number, (name, fault) in enumerate(BEARINGS, 1):
        chunks = vibration(RECORDING_S, fault, training.SEED + number)
        chunks = chunks[: len(chunks) // CHUNK * CHUNK].reshape(-1, CHUNK)
        watch = Watch(None if fault is None else round(FAULT_BEGINS_S * SAMPLES_HZ) // CHUNK)
        phase_ns = period_ns * number // (len(BEARINGS) + 1)
        clip = Clip(list(chunks), period_ns)
        sensors.append(
            Sensor(name, "vibration", clip, period_ns, phase_ns, VIBRATION_BUDGET_MS, "CRITICAL", "ALL", watch)
        )
    return sensors


def _below_zero(outcome: Outcome) -> float:
    return -float(np.ravel(outcome.outputs["scores"])[0])


def _words(sensors: Sequence[Sensor], seconds: float) -> str:
    return (
        f"Streaming for {seconds:g} s: nine sensors of the Space Shuttle's radiators, {TELEMETRY_HZ} readings a "
        "second, real and with ground truth, from readings that the model has not seen; it learnt what is sound. And "
        f"the vibration of {len(BEARINGS)} bearings, wanted within {VIBRATION_BUDGET_MS:g} ms. No package was found "
        "that ships recorded vibration of a machine with ground truth, so that is made here, from seeds and a "
        f"published model of a bearing: at second {FAULT_BEGINS_S:g} two of them begin to fail."
    )


def _summary(sensors: list[Sensor]) -> dict[str, str]:
    telemetry, *bearings = sensors
    in_time = f"{telemetry.tally.on_time:,} of {telemetry.tally.sent:,} readings were looked at in time. "
    return {"telemetry": in_time + perceived(telemetry), **{bearing.name: perceived(bearing) for bearing in bearings}}


DEMO = Demo(
    name="machine",
    assets=("shuttle.csv.gz",),
    models=("telemetry", "vibration"),
    made_by=(Path(__file__),),
    make=_make,
    sensors=_sensors,
    words=_words,
    summary=_summary,
)
