"""The demo's own models, assembled as its set-up does, for tests with real weights."""

import shutil
from functools import cache
from pathlib import Path

import duly.demo
from duly.demo import assets, darknet

MODELS = Path(duly.demo.__file__).parent / "models"


def vad(root: Path) -> Path:
    """Repository `root` with the voice activity detector."""
    return _put(root, "vad", asset("silero_vad.onnx"))


def yolo(root: Path) -> Path:
    """Repository `root` with the object detector, converted anew."""
    (root / "yolo/1").mkdir(parents=True)
    shutil.copy(asset("coco.names"), root / "yolo")
    darknet.convert(asset("yolov2-tiny.cfg"), asset("yolov2-tiny.weights"), root / "yolo/1/model.onnx")
    return _put(root, "yolo", root / "yolo/1/model.onnx")


@cache
def asset(name: str) -> Path:
    return assets.fetch([name], progress=False)[name]


def _put(root: Path, name: str, file: Path) -> Path:
    target = root / name / "1" / "model.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    if file != target:
        shutil.copy(file, target)
    toml = (MODELS / name / "model.toml").read_text()
    # The demo's own, but for a short warm-up and batches of two.
    own = [line for line in toml.splitlines() if not line.startswith(("warmup_runs", "batch_sizes"))]
    (root / name / "model.toml").write_text("\n".join(["warmup_runs = 3", "batch_sizes = [1, 2]", *own]))
    return root
