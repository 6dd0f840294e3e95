"""Prints what `duly models optimize` makes of models, with the figures of docs/optimize.md:

    python docs/measure_optimize.py [digits] [photographs] [beats] [yolo] [vad] [--out FOLDER]

`digits` is a small network of SqueezeNet's kind, `photographs` a SqueezeNet of the usual size, and `beats` one of
convolutions over an ECG; all three are trained here, from a seed, on real data that packages ship. `yolo` and `vad` are
the demo's. Without names: all. It needs the extras demo, learn and load; yolo takes an hour, `--seconds` says how long
its student is trained.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from duly.demo.assets import fetch
from duly.models.repository import Repository
from duly_learn.optimize.losses import of_logits
from duly_learn.optimize.page import report
from duly_learn.optimize.run import Asked, Found, optimize
from duly_learn.optimize.steps import STEPS, with_bounds
from duly_learn.optimize.training import Bounds, train

SEED = 0
TOLERANCE = 0.02
HELD_OUT = 0.5
SIDE = 224

Array = np.ndarray[Any, np.dtype[Any]]


class Layers:
    """Writes a graph layer by layer, with weights drawn from the seed (He et al. 2015)."""

    def __init__(self, tensor: str, width: int) -> None:
        self._random = np.random.default_rng(SEED)
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: list[onnx.TensorProto] = []
        self.tensor, self.width = tensor, width

    def _node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _weights(self, *shape: int) -> list[str]:
        name = f"w{len(self.nodes)}"
        kernel = self._random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        self.arrays += [
            numpy_helper.from_array(kernel.astype(np.float32), name),
            numpy_helper.from_array(np.zeros(shape[0], np.float32), f"{name}.bias"),
        ]
        return [name, f"{name}.bias"]

    def conv(self, width: int, *kernel: int, stride: int = 1) -> str:
        pads = [extent // 2 for extent in kernel] * 2
        inputs = [self.tensor, *self._weights(width, self.width, *kernel)]
        made = self._node("Conv", inputs, kernel_shape=kernel, pads=pads, strides=[stride] * len(kernel))
        self.tensor, self.width = self._node("Relu", [made]), width
        return self.tensor

    def fire(self, squeezed: int, expanded: int) -> None:
        """Iandola et al. 2016, "SqueezeNet", section 3.2."""
        start = self.conv(squeezed, 1, 1)
        small = self.conv(expanded, 1, 1)
        self.tensor, self.width = start, squeezed
        large = self.conv(expanded, 3, 3)
        self.tensor, self.width = self._node("Concat", [small, large], axis=1), 2 * expanded

    def pool(self) -> None:
        self.tensor = self._node("MaxPool", [self.tensor], kernel_shape=[2, 2], strides=[2, 2])

    def classes(self, count: int, output: str) -> None:
        pooled = self._node("Flatten", [self._node("GlobalAveragePool", [self.tensor])])
        self.nodes.append(helper.make_node("Gemm", [pooled, *self._weights(count, self.width)], [output], transB=1))

    def model(self, name: str, shape: Sequence[int], output: str, count: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "trained",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", count])],
            self.arrays,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def trained(
    model: onnx.ModelProto, name: str, rows: Array, truth: Array, steps: int, rate: float = 2e-3
) -> onnx.ModelProto:
    """Trains a classifier on what is true: its teacher gives ten times one for the right class."""
    output, count = model.graph.output[0].name, int(truth.max()) + 1
    wanted = 10.0 * np.eye(count, dtype=np.float32)[truth]
    examples = (({name: row[None]}, {output: right[None]}) for row, right in zip(rows, wanted, strict=True))
    bounds = Bounds(steps=steps, seconds=3600, batch=16, rate=rate)
    return train(model, examples, of_logits(output), bounds, SEED).model


def digits(models: Path) -> list[Path]:
    """Handwritten digits: 1,797 pictures of 8x8 from scikit-learn, four times as wide and high."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = np.kron(found.images * 15.9375, np.ones((1, 4, 4))).astype(np.uint8)[..., None]
    layers = Layers("pixels", 1)
    layers.conv(32, 3, 3)
    layers.pool()
    layers.fire(16, 64)
    layers.fire(32, 64)
    layers.pool()
    layers.fire(32, 128)
    layers.fire(48, 128)
    layers.classes(10, "scores")
    model = layers.model("pixels", [1, 32, 32], "scores", 10)
    rows = pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255
    _write(models / "digits", trained(model, "pixels", rows[:1200], found.target[:1200], 600))
    (models / "digits/labels.txt").write_text("\n".join(map(str, range(10))) + "\n")
    (models / "digits/model.toml").write_text(
        'labels = "labels.txt"\nbatch_sizes = [1]\n[[input]]\nname = "picture"\ntensor = "pixels"\n'
        'datatype = "UINT8"\nshape = [32, 32, 1]\npreprocess = [{ op = "normalise", scale = 0.00392156862745098 }, '
        '{ op = "layout" }]\n'
    )
    frames = models.parent / "digits.npz"
    np.savez(frames, picture=pictures)
    return [frames]


def photographs(models: Path) -> list[Path]:
    """Which of four photographs a picture of 224x224 was cut from, by SqueezeNet 1.1 (Iandola et al. 2016)."""
    import cv2

    names = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png")
    whole = [cv2.imread(str(path)) for path in fetch(names).values()]
    random = np.random.default_rng(SEED)
    pictures, truth = [], []
    for nth in range(1400):
        photograph = whole[nth % len(whole)]
        top, left = (int(random.integers(extent - SIDE + 1)) for extent in photograph.shape[:2])
        pictures.append(photograph[top : top + SIDE, left : left + SIDE, ::-1])
        truth.append(nth % len(whole))
    layers = Layers("pixels", 3)
    layers.conv(64, 3, 3, stride=2)
    for squeezed, expanded in ((16, 64), (32, 128)):
        layers.pool()
        layers.fire(squeezed, expanded)
        layers.fire(squeezed, expanded)
    layers.pool()
    for squeezed, expanded in ((48, 192), (48, 192), (64, 256), (64, 256)):
        layers.fire(squeezed, expanded)
    layers.classes(len(names), "scores")
    model = layers.model("pixels", [3, SIDE, SIDE], "scores", len(names))
    rows = np.stack(pictures[:200]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    _write(models / "photographs", trained(model, "pixels", rows, np.array(truth[:200]), 150, 3e-4))
    (models / "photographs/labels.txt").write_text("\n".join(Path(name).stem for name in names) + "\n")
    (models / "photographs/model.toml").write_text(
        'labels = "labels.txt"\nbatch_sizes = [1]\n[[input]]\nname = "picture"\ntensor = "pixels"\n'
        f'datatype = "UINT8"\nshape = [{SIDE}, {SIDE}, 3]\n'
        'preprocess = [{ op = "normalise", scale = 0.00392156862745098 }, { op = "layout" }]\n'
    )
    frames = models.parent / "photographs.npz"
    np.savez(frames, picture=np.stack(pictures))
    return [frames]


def beats(models: Path) -> list[Path]:
    """Normal and ectopic heartbeats in 1.2 s of two leads of ECG: record 201 of the AHA database."""
    from duly.demo.bedside import HOP_SAMPLES, WINDOW_SAMPLES, read_beats, read_signal, window

    files = fetch(("0201.dat", "0201.atr"))
    signal, found = read_signal(files["0201.dat"]), read_beats(files["0201.atr"])
    inside = [(at, ectopic) for at, ectopic in found if WINDOW_SAMPLES < at + 100 < signal.shape[1]]
    rare = sum(ectopic for _, ectopic in inside)
    random = np.random.default_rng(SEED)
    kept = [each for each in inside if each[1] or random.random() < 2 * rare / len(inside)]
    # A monitor's windows end anywhere: three of them hold each beat.
    ends = [at + 100 - int(random.integers(HOP_SAMPLES)) for at, _ in kept for _ in range(3)]
    rows = np.stack([window(signal, end).reshape(2, -1) for end in ends])
    truth = np.repeat([int(ectopic) for _, ectopic in kept], 3)
    layers = Layers("ecg", 2)
    for width in (64, 128, 128, 128):
        layers.conv(width, 7, stride=2)
    layers.classes(2, "scores")
    model = layers.model("ecg", [2, WINDOW_SAMPLES], "scores", 2)
    half = len(rows) // 2
    _write(models / "beats", trained(model, "ecg", rows[:half], truth[:half], 400))
    (models / "beats/labels.txt").write_text("normal\nectopic\n")
    (models / "beats/model.toml").write_text('labels = "labels.txt"\nbatch_sizes = [1]\n')
    frames = models.parent / "beats.npz"
    every = range(WINDOW_SAMPLES, signal.shape[1], HOP_SAMPLES)  # what a monitor sends, of all of the record
    np.savez(frames, ecg=np.stack([window(signal, end).reshape(2, -1) for end in every]).astype(np.float32))
    return [frames]


def _write(folder: Path, model: onnx.ModelProto) -> None:
    (folder / "1").mkdir(parents=True)
    onnx.save(model, str(folder / "1/model.onnx"))


def yolo(models: Path) -> list[Path]:
    """YOLOv2-tiny on a street with cyclists, and on what else was given."""
    from duly.demo.prepare import prepare_models

    shutil.copytree(prepare_models() / "yolo", models / "yolo")
    return [fetch(("bikes.mp4",))["bikes.mp4"]]


def vad(models: Path) -> list[Path]:
    """Silero VAD on half a minute of talk."""
    from duly.demo.prepare import prepare_models

    shutil.copytree(prepare_models() / "vad", models / "vad")
    return [fetch(("sample.wav",))["sample.wav"]]


@dataclass(frozen=True, slots=True)
class Case:
    make: Callable[[Path], list[Path]]
    """Writes the model into a repository, and returns where its frames are."""
    share: float
    """Of the multiplications, what smaller graphs are left with."""


CASES = {
    "digits": Case(digits, 0.5),
    "photographs": Case(photographs, 0.5),
    "beats": Case(beats, 0.4),
    "yolo": Case(yolo, 0.6),
    "vad": Case(vad, 0.6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="MODEL", help="Models; none: all.")
    parser.add_argument("--out", type=Path, default=Path("build/optimize"), help="Folder for models and reports.")
    parser.add_argument("--frames", type=Path, action="append", default=[], help="More recordings for yolo.")
    parser.add_argument("--seconds", type=float, default=600, help="How long a student is trained at most.")
    parser.add_argument("--steps", default="", help="Steps, with commas; none: all.")
    given = parser.parse_args()
    for name in given.names or CASES:
        found = measured(name, given.out, given.frames if name == "yolo" else [], given.seconds, given.steps)
        (given.out / f"{name}.html").write_text(report(found), "utf-8")
        print(table(name, found), flush=True)
        if found.variants:
            print(overloaded(name, found, given.out), flush=True)


def measured(name: str, out: Path, more: Sequence[Path], seconds: float, steps: str) -> Found:
    case = CASES[name]
    models = out / name / "models"
    shutil.rmtree(out / name, ignore_errors=True)
    models.mkdir(parents=True)
    places = [*case.make(models), *more]
    version = next(each for each in Repository(models).scan()[0] if each.name == name)
    wanted = [step for step in STEPS if not steps or step.name in steps.split(",")]
    bounded = with_bounds(wanted, case.share, seconds)
    return optimize(Asked(version, places, bounded, TOLERANCE, SEED, HELD_OUT), print)


def table(name: str, found: Found) -> str:
    """Returns rows of Markdown: each step with its agreement, speed and size, or why it was refused."""
    rows = []
    for each in found.candidates:
        if each.agreement is None or not each.times:
            rows.append(f"| {name} | {each.name} | | | | refused: {'; '.join(each.refusals)} |")
            continue
        verdict = "kept" if each.kept and not each.refusals else "; ".join(each.refusals)
        agreement = f"{each.agreement.mean:.4f} (from {each.agreement.low:.4f}, {each.agreement.count}, worth "
        agreement += f"{each.agreement.worth})"
        size = each.size_bytes / found.original.size_bytes
        rows.append(f"| {name} | {each.name} | {agreement} | {each.speed_up:.2f} | {size:.2f} | {verdict} |")
    return "\n".join(rows)


def overloaded(name: str, found: Found, out: Path) -> str:
    """Returns a row of Markdown: what the scheduler makes of half as much again as one lane can do with the original
    alone, without the variants and with them. Time is virtual and the batches take what was measured, so that nothing
    else that the machine does counts."""
    measured_ms = {
        each.name: median(next(iter(each.times.values())).candidate_ns) / 1e6 for each in found.candidates if each.times
    }
    original_ns = next(each for each in found.candidates if each.times).times
    original_ms = median(next(iter(original_ns.values())).original_ns) / 1e6
    all_ms = {variant.name: measured_ms.get(variant.name, original_ms) for variant in found.variants}
    ratios = []
    for called, variants_ms in (("without", {"original": original_ms}), ("with", all_ms)):
        scenario, results = out / name / f"overloaded-{called}.toml", out / name / called
        scenario.write_text(_scenario(variants_ms, original_ms))
        command = [sys.executable, "-m", "duly_sim.cli.main", "run", str(scenario), "--out", str(results)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        ratios.append(json.loads((results / "results.json").read_text())["policies"]["duly"]["on_time_ratio"])
    without, with_variants = ratios
    return (
        f"| {name} | {', '.join(f'{variant} {ms:.2f} ms' for variant, ms in all_ms.items())} | {without:.1%} | "
        f"{with_variants:.1%} | {with_variants / without:.2f} |"
    )


def _scenario(variants_ms: Mapping[str, float], original_ms: float) -> str:
    """Ten cameras that together send 1.5 times what one lane can do with the original; budgets of ten batches."""
    variants = ", ".join(f'{{ name = "{name}", times_ms = {{ 1 = {ms:.4f} }} }}' for name, ms in variants_ms.items())
    return f"""name = "overloaded"
duration_s = 22
warm_s = 2
[simulate]
noise = {{ cv = 0.05 }}
[[simulate.lane]]
name = "cpu:0"
[[simulate.model]]
name = "model"
batch_max = 1
variants = [{variants}]
[[stream]]
name = "camera"
count = 10
model = "model"
budget_ms = {10 * original_ms:.3f}
arrivals = {{ kind = "periodic", rate_hz = {1500 / original_ms / 10:.3f}, jitter_ms = 0.1, drift_ppm = 50 }}
"""


if __name__ == "__main__":
    main()
