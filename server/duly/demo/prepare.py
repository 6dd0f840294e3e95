"""Builds the demo's model repository, once, out of the assets and the `model.toml` templates beside this file.

    <cache root>/demo-models-<digest>/yolo/{model.toml, coco.names, 1/model.onnx}
                                     /vad/{model.toml, 1/model.onnx}

The digest covers everything that the repository is made of: where a template, the converter or an asset changes,
another repository is built and the old one is removed. A finished repository is renamed into its place, so what is
there is whole. Where several processes want it at once, one builds it and the others wait.
"""

import fcntl
import hashlib
import shutil
from pathlib import Path

from duly.demo import darknet
from duly.demo.assets import ASSETS, cache_dir, fetch

MODEL_ASSETS = ("yolov2-tiny.cfg", "yolov2-tiny.weights", "coco.names", "silero_vad.onnx")
"""Names in `assets.ASSETS` of what the repository is made of."""

_TEMPLATES = Path(__file__).with_name("models")


def prepare_models() -> Path:
    """Returns the folder of the repository. Where it is not there yet, building it takes two seconds.

    Raises:
        AssetError: an asset cannot be fetched.
        OSError: the cache folder cannot be written.
    """
    assets = fetch(MODEL_ASSETS)
    root = cache_dir().parent
    models = root / f"demo-models-{_digest()}"
    with (root / ".demo-models.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not models.is_dir():
            for old in root.glob("*demo-models-*"):  # repositories of other versions, and what a killed build left
                shutil.rmtree(old, ignore_errors=True)
            partial = root / f".{models.name}"
            _build(partial, assets)
            partial.rename(models)
    return models


def _digest() -> str:
    parts = [*sorted(_TEMPLATES.glob("*/model.toml")), Path(darknet.__file__), Path(__file__)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part.read_bytes()).digest())
    for name in MODEL_ASSETS:
        digest.update(bytes.fromhex(ASSETS[name].sha256))
    return digest.hexdigest()[:16]


def _build(models: Path, assets: dict[str, Path]) -> None:
    for name in ("yolo", "vad"):
        (models / name / "1").mkdir(parents=True)
        shutil.copyfile(_TEMPLATES / name / "model.toml", models / name / "model.toml")
    shutil.copyfile(assets["coco.names"], models / "yolo/coco.names")
    darknet.convert(assets["yolov2-tiny.cfg"], assets["yolov2-tiny.weights"], models / "yolo/1/model.onnx")
    shutil.copyfile(assets["silero_vad.onnx"], models / "vad/1/model.onnx")
