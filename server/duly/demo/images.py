"""`duly demo images`: slices of a magnetic resonance scan of the head. Grey and white matter are told apart."""

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from duly.demo import training
from duly.demo.clips import Clip
from duly.demo.description import Demo, Files
from duly.demo.sensors import Sensor
from duly.demo.summary import milliseconds, perceived
from duly_client import Client, Outcome

LEARNT_SLICES = (*range(30, 80), *range(122, 150))
JUDGED_SLICES = range(86, 116)
"""Axial slices, 1 mm apart. Those that the model is judged by are 7 mm away from any that it learnt from."""
PIXELS_PER_SLICE = 600
BLURS = (3, 7, 15, 31)
"""Sides of the squares over which the brightness is averaged. With that of the pixel they are what the model sees."""
HIDDEN = 24
MATTER_MIN = 128
"""A voxel belongs to the tissue of which it has more, if that is at least half of it (128 of 255)."""
TISSUES = ("other", "grey matter", "white matter")

RATE_HZ = 4
BUDGET_MS = 500.0

Volume = npt.NDArray[np.uint8]


def read_volume(path: Path) -> Volume:
    """Reads a volume of bytes in the format NIfTI-1, of shape [slice, row, column]."""
    data = gzip.decompress(path.read_bytes())
    _, columns, rows, slices, *_ = struct.unpack("<8h", data[40:56])
    (offset,) = struct.unpack("<f", data[108:112])
    return np.frombuffer(data, np.uint8, slices * rows * columns, int(offset)).reshape(slices, rows, columns)


def tissue(grey: Volume, white: Volume) -> Volume:
    """Number of the tissue of each voxel, by how much of it is grey and white matter."""
    return np.where(np.maximum(grey, white) < MATTER_MIN, 0, np.where(grey >= white, 1, 2)).astype(np.uint8)


def _seen(picture: Volume) -> training.Floats:
    """What the model sees of each pixel, [pixels, 1 + len(BLURS)], as its graph computes it."""
    bright = picture.astype(np.float32) / 255
    blurred = [cv2.blur(bright, (side, side), borderType=cv2.BORDER_CONSTANT) for side in BLURS]
    return np.stack([bright, *blurred], axis=-1).reshape(-1, 1 + len(BLURS))


def _make(files: Files, models: Path) -> None:
    head, truth = read_volume(files["icbm152_t1.nii.gz"]), _truth(files)
    random = np.random.default_rng(training.SEED)
    rows, classes = [], []
    for number in LEARNT_SLICES:
        chosen = random.choice(head[number].size, PIXELS_PER_SLICE, replace=False)
        rows.append(_seen(head[number])[chosen])
        classes.append(truth[number].reshape(-1)[chosen])
    seen = np.concatenate(rows)
    mean, spread = seen.mean(axis=0), seen.std(axis=0)
    network = training.fit(training.network(HIDDEN, rounds=30), (seen - mean) / spread, np.concatenate(classes))
    first, last = network.coefs_
    _write(
        models / "tissue/1/model.onnx",
        (first / spread[:, None], network.intercepts_[0] - (mean / spread) @ first),
        (last, network.intercepts_[1]),
        head.shape[1:],
    )


def _truth(files: Files) -> Volume:
    return tissue(read_volume(files["icbm152_gm.nii.gz"]), read_volume(files["icbm152_wm.nii.gz"]))


Layer = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _write(path: Path, first: Layer, last: Layer, size: Sequence[int]) -> None:
    """Writes the network as convolutions: `image f32[n, 1, H, W]` → `tissue u8[n, H, W]`."""
    nodes, weights = [], []
    for side in BLURS:  # an average over a square is one over rows and then one over columns
        half = side // 2
        for name, extents, source in ((f"rows{side}", (side, 1), "image"), (f"blur{side}", (1, side), f"rows{side}")):
            pads = [half * (extent > 1) for extent in extents] * 2
            nodes.append(
                helper.make_node("AveragePool", [source], [name], kernel_shape=extents, pads=pads, count_include_pad=1)
            )
    nodes.append(helper.make_node("Concat", ["image", *(f"blur{side}" for side in BLURS)], ["seen"], axis=1))
    for name, (coefficients, bias) in (("first", first), ("last", last)):
        kernel = coefficients.T.astype(np.float32)[:, :, None, None]
        weights += [
            numpy_helper.from_array(np.ascontiguousarray(kernel), f"{name}.weights"),
            numpy_helper.from_array(bias.astype(np.float32), f"{name}.bias"),
        ]
    nodes += [
        helper.make_node("Conv", ["seen", "first.weights", "first.bias"], ["linear"]),
        helper.make_node("Relu", ["linear"], ["hidden"]),
        helper.make_node("Conv", ["hidden", "last.weights", "last.bias"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["numbers"], axis=1, keepdims=0),
        helper.make_node("Cast", ["numbers"], ["tissue"], to=TensorProto.UINT8),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, *size])
    out = helper.make_tensor_value_info("tissue", TensorProto.UINT8, ["n", *size])
    graph = helper.make_graph(nodes, "tissue", [image], [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", training.OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


class Reading:
    """Perceives tissue, and compares it with the true one by Dice's coefficient: twice what both have, in terms of what
    each has; 1: the same.
    """

    def __init__(self, truth: Sequence[Volume]) -> None:
        self._truth = truth
        self.dice: list[tuple[float, ...]] = []
        """Of each picture, that of each tissue but `other`."""

    def take(self, index: int, outcome: Outcome) -> None:
        answer, truth = outcome.outputs["tissue"], self._truth[index]
        self.dice.append(tuple(_dice(answer == number, truth == number) for number in range(1, len(TISSUES))))

    def now(self) -> str:
        if not self.dice:
            return ""
        alike = ", ".join(f"{name} {dice:.2f}" for name, dice in zip(TISSUES[1:], self.dice[-1], strict=True))
        return f"alike with the truth (Dice): {alike}"

    def summary(self) -> str:
        if not self.dice:
            return ""
        means, worst = np.mean(self.dice, axis=0), np.min(self.dice, axis=0)
        alike = " and ".join(
            f"{name} {mean:.2f} (at worst {least:.2f})"
            for name, mean, least in zip(TISSUES[1:], means, worst, strict=True)
        )
        return f"Dice's coefficient against the ground truth, over {len(self.dice)} pictures: {alike}."


def _dice(answer: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    both = int(answer.sum()) + int(truth.sum())
    return 2 * int((answer & truth).sum()) / both if both else 1.0


async def _sensors(client: Client, files: Files) -> list[Sensor]:
    head, truth = read_volume(files["icbm152_t1.nii.gz"]), _truth(files)
    pictures = [cv2.imencode(".png", head[number])[1].tobytes() for number in JUDGED_SLICES]
    period_ns = 1_000_000_000 // RATE_HZ
    reading = Reading([truth[number] for number in JUDGED_SLICES])
    clip = Clip(list(pictures), period_ns, "PNG")
    return [Sensor("scanner", "tissue", clip, period_ns, 0, BUDGET_MS, "STANDARD", "ALL", reading)]


def _words(sensors: list[Sensor], seconds: float) -> str:
    (scanner,) = sensors
    return (
        f"Streaming for {seconds:g} s: {scanner.rate_hz:g} slices a second of a magnetic resonance scan of the head, "
        f"each wanted within {scanner.budget_ms:g} ms. The pictures are the average of 152 heads (MNI, ICBM152), "
        f"with the share of grey and white matter in every voxel as ground truth. The model learnt from "
        f"{len(LEARNT_SLICES)} other slices; the {len(JUDGED_SLICES)} that stream are at least 7 mm away from those."
    )


def _summary(sensors: list[Sensor]) -> dict[str, str]:
    (scanner,) = sensors
    tally = scanner.tally
    run = f", each in {milliseconds(tally.run_mean_ns)}" if tally.run_mean_ns is not None else ""
    return {"scanner": f"{tally.on_time} of {tally.sent} pictures were read in time{run}.", "truth": perceived(scanner)}


DEMO = Demo(
    name="images",
    assets=tuple(f"icbm152_{kind}.nii.gz" for kind in ("t1", "gm", "wm")),
    models=("tissue",),
    made_by=(Path(__file__),),
    make=_make,
    sensors=_sensors,
    words=_words,
    summary=_summary,
)
