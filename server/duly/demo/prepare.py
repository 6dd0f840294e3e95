"""Makes a demo's model repository, once, out of its assets and the templates beside this file.

    <cache root>/demo-models-<digest>/yolo/{model.toml, coco.names, 1/model.onnx}        of the demo `street`
                                     /vad/{model.toml, 1/model.onnx}
                /demo-<name>-models-<digest>/...                                         of the others

The digest covers everything that the repository is made of: where a template, the code that makes it or an asset
changes, another repository is made and the old one is removed. A finished repository is renamed into its place, so what
is there is whole. Where several processes want it at once, one makes it and the others wait.
"""

import fcntl
import hashlib
import shutil
from pathlib import Path

from duly.demo import street, training
from duly.demo.assets import ASSETS, cache_dir, fetch
from duly.demo.description import Demo

_TEMPLATES = Path(__file__).with_name("models")


def prepare_models(demo: Demo = street.DEMO) -> Path:
    """Returns the folder of the demo's repository. Where it is not there yet, making it takes seconds.

    Raises:
        AssetError: an asset cannot be fetched.
        ModuleNotFoundError: the packages that train models are not installed.
        OSError: the cache folder cannot be written.
    """
    files = fetch(demo.assets)
    root = cache_dir().parent
    stem = "demo-models-" if demo.name == street.DEMO.name else f"demo-{demo.name}-models-"
    models = root / f"{stem}{_digest(demo)}"
    with (root / f".{stem.removesuffix('-')}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not models.is_dir():
            # Repositories of other versions, and what a killed process left.
            for old in (*root.glob(f"{stem}*"), *root.glob(f".{stem}*")):
                shutil.rmtree(old, ignore_errors=True)
            partial = root / f".{models.name}"
            for name in demo.models:
                shutil.copytree(_TEMPLATES / name, partial / name)
                (partial / name / "1").mkdir()
            demo.make(files, partial)
            partial.rename(models)
    return models


def _digest(demo: Demo) -> str:
    templates = [path for name in demo.models for path in sorted((_TEMPLATES / name).iterdir())]
    digest = hashlib.sha256()
    for part in (*templates, *demo.made_by, Path(training.__file__), Path(__file__)):
        digest.update(hashlib.sha256(part.read_bytes()).digest())
    for name in demo.assets:
        digest.update(bytes.fromhex(ASSETS[name].sha256))
    return digest.hexdigest()[:16]
