"""The models that the cases use; small, and each for one purpose."""

from collections.abc import Callable, Collection
from pathlib import Path

import onnx

from tests import graphs

PICTURE = """
[[input]]
name = "picture"
tensor = "x"
encodings = ["PNG", "JPEG"]
"""

GUARDS = """
[[guard]]
kind = "RANGE"
max = 10.0

[[guard]]
kind = "BLANK"
action = "INVALID"
"""


def write_models(root: Path, names: Collection[str]) -> None:
    """Writes those that are named of `double` (y = 2x, 4 wide), `sum` (a running sum of 2), `both` (y = x, z = -x),
    `picture` (y: the bytes of one pixel, red, green, blue), `text` (y = x followed by x, two texts), `bfloat16`
    (y = 2x, 4 wide), `guarded` (y = 2x, 4 wide, with guards of large and of equal elements), `named` (y = 2x, 4 wide,
    of classes with names) and `slow` (milliseconds of work for each frame, one by one).
    """
    for name, (make, toml) in _MODELS.items():
        if name in names:
            graphs.save(root, name, make(), toml=toml)
            if "labels" in toml:
                (root / name / "names.txt").write_text("cat\n\nd\u00f6g\nfrog\n", "utf-8")


_MODELS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "double": (graphs.scaling, ""),
    "sum": (graphs.summing, graphs.SUMMING),
    "both": (graphs.two_outputs, ""),
    "picture": (lambda: graphs.copying(("N", 1, 1, 3), onnx.TensorProto.UINT8), PICTURE),
    "text": (lambda: graphs.joining_texts(("N", 2)), ""),
    "bfloat16": (graphs.doubling_halves, ""),
    "guarded": (graphs.scaling, GUARDS),
    "named": (graphs.scaling, 'labels = "names.txt"\n'),
    "slow": (lambda: graphs.slow(rounds=20), "batch_sizes = [1]\n"),
}
NAMES = frozenset(_MODELS)
