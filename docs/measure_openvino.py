"""Measures OpenVINO on its CPU device beside ONNX Runtime's own CPU provider, both served by duly with one thread:

    python docs/measure_openvino.py [--rounds 3] [--seconds 1.5] [--file FILE]

`make openvino-figures` runs it. A server of each kind runs all the while, each with the environment of its ONNX
Runtime; they take turns with each model and each number of frames in flight, so that what the machine does meets both.
What comes of each round is appended to the file, by default build/openvino.jsonl; the table at the end is of all that
the file has, so that rounds may be run at different times. --rounds 0 only prints it. Frames are random numbers:
SqueezeNet has ONNX's constant weights, the MLP random ones, YOLOv2-tiny its own; int8 is quantize_static's (QDQ).
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from duly.demo import assets, darknet
from duly_client import Client, Status
from duly_load.graphs import GRAPHS

ROOT = Path(__file__).parent.parent
SIDES = {
    "cpu": ("cpu:0", sys.executable),
    "openvino": ("openvino:CPU", str(ROOT / "build/accelerators/openvino/bin/python")),
}
NAMES, KINDS = ("squeezenet", "mlp", "yolov2-tiny"), ("fp32", "int8")
FLIGHTS = (1, 4, 16)
"""Frames in flight: of one, latency is told; several share batches."""
FIGURES = ("p50_ms", "p99_ms", "rate_4", "rate_16")
BATCHES = 'batch_sizes = [1, 2, 4, 8]\ndefault_backlog = "ALL"\n'
CALIBRATED = 8


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(3)
        self._feeds = iter([{name: rng.random((1, *shape), np.float32)} for _ in range(CALIBRATED)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def write_models(root: Path) -> None:
    """Writes each model as fp32 and as int8."""
    for name in NAMES:
        plain = root / f"{name}-fp32/1/model.onnx"
        plain.parent.mkdir(parents=True)
        if name in GRAPHS:
            onnx.save(GRAPHS[name].build(), plain)
        else:
            files = assets.fetch(["yolov2-tiny.cfg", "yolov2-tiny.weights"], progress=False)
            darknet.convert(files["yolov2-tiny.cfg"], files["yolov2-tiny.weights"], plain)
        tensor, shape = taken(plain)
        small = root / f"{name}-int8/1/model.onnx"
        small.parent.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(plain, prepared, skip_symbolic_shape=True)
            quantize_static(prepared, small, Calibration(tensor, shape), quant_format=QuantFormat.QDQ)
        for kind in KINDS:
            (root / f"{name}-{kind}/model.toml").write_text(BATCHES)


def taken(file: Path) -> tuple[str, tuple[int, ...]]:
    """The name of the graph's input, and the shape of a frame."""
    given = onnx.load(file).graph.input[0]
    return given.name, tuple(each.dim_value for each in given.type.tensor_type.shape.dim[1:])


@contextmanager
def server(models: Path, lane: str, python: str) -> Iterator[str]:
    """Runs a server. Gives its address."""
    command = [python, "-P", "-m", "duly.cli", "serve", "--models", str(models), "--listen", "127.0.0.1:0"]
    command += ["--lanes", lane, "--threads", "1", "--admission", "advise", "--log-format", "json"]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            address = ""
            while not address:
                log.seek(0)
                lines = [line for line in log if line.startswith("{") and line.endswith("\n")]
                if process.poll() is not None:
                    raise SystemExit(f"the server of {lane} ended: {''.join(lines)}")
                address = next(
                    (entry["address"] for entry in map(json.loads, lines) if entry["event"] == "serving"), ""
                )
                time.sleep(0.05)
            yield address
        finally:
            process.terminate()
            process.wait()


async def run(address: str, model: str, frame: Any, flight: int, seconds: float) -> tuple[list[float], float, float]:
    """Keeps so many frames in flight. Returns latencies in ms, frames a second, and frames a batch."""
    sent_s: deque[float] = deque()
    latencies, batches = [], []
    async with (
        Client(address) as client,
        client.stream(model, budget_ms=20_000, backlog="ALL") as stream,
    ):
        began_s = time.perf_counter()
        for _ in range(flight):
            await stream.send(frame)
            sent_s.append(time.perf_counter())
        while (now_s := time.perf_counter()) < began_s + seconds:
            outcome = await anext(stream)
            if outcome.status is not Status.ON_TIME:
                raise SystemExit(f"{model}: {outcome.status.name}: {outcome.reason}")
            latencies.append((time.perf_counter() - sent_s.popleft()) * 1e3)
            batches.append(outcome.batch_size)
            sent_s.append(time.perf_counter())
            await stream.send(frame)
    return latencies, len(latencies) / (now_s - began_s), mean(batches)


def measured(
    runner: asyncio.Runner, addresses: dict[str, str], model: str, shape: tuple[int, ...], seconds: float, turn: int
) -> Any:
    frame = np.random.default_rng(5).random(shape, np.float32)
    order = [*addresses][turn % 2 :] + [*addresses][: turn % 2]
    found: dict[str, dict[str, float]] = {side: {} for side in order}
    for flight in FLIGHTS:
        for side in order:
            latencies, rate, batch = runner.run(run(addresses[side], model, frame, flight, seconds))
            if flight == 1:
                p50, p99 = np.percentile(latencies, [50, 99])
                found[side] |= {"p50_ms": float(p50), "p99_ms": float(p99)}
            else:
                found[side] |= {f"rate_{flight}": rate, f"batch_{flight}": batch}
    return found


def ranged(values: Sequence[float]) -> str:
    return f"{median(values):.3g} ({min(values):.3g}-{max(values):.3g})"


def show(rounds: Sequence[dict[str, Any]]) -> None:
    print(f"{len(rounds)} rounds, median and range; OpenVINO over CPU of each round\n")
    print("| model | | p50, ms | p99, ms | frames/s, 4 in flight | frames/s, 16 in flight |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in rounds[0]:
        for side in SIDES:
            cells = [ranged([each[model][side][name] for each in rounds]) for name in FIGURES]
            print(f"| {model} | {side} | {' | '.join(cells)} |")
        ratios = [ranged([each[model]["openvino"][n] / each[model]["cpu"][n] for each in rounds]) for n in FIGURES]
        print(f"| {model} | **ratio** | {' | '.join(ratios)} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--file", type=Path, default=Path("build/openvino.jsonl"))
    given = parser.parse_args()
    given.file.parent.mkdir(parents=True, exist_ok=True)
    rounds = [json.loads(line) for line in given.file.read_text().splitlines()] if given.file.exists() else []
    models = given.file.parent / "openvino-models"
    if not models.exists():
        with tempfile.TemporaryDirectory(dir=given.file.parent) as folder:
            write_models(Path(folder) / "models")
            (Path(folder) / "models").rename(models)
    shapes = {f"{name}-{kind}": taken(models / f"{name}-{kind}/1/model.onnx")[1] for name in NAMES for kind in KINDS}
    if given.rounds:
        with (
            server(models, *SIDES["cpu"]) as cpu,
            server(models, *SIDES["openvino"]) as openvino,
            asyncio.Runner() as runner,
        ):
            addresses = {"cpu": cpu, "openvino": openvino}
            for turn in range(len(rounds), len(rounds) + given.rounds):
                found = {
                    name: measured(runner, addresses, name, shape, given.seconds, turn)
                    for name, shape in shapes.items()
                }
                rounds.append(found)
                with given.file.open("a") as file:
                    file.write(json.dumps(found) + "\n")
    if rounds:
        show(rounds)


if __name__ == "__main__":
    main()
