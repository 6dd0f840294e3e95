"""The models that the cases use; small, and each for one purpose."""

from pathlib import Path

from onnx import TensorProto

from tests import graphs

PICTURE = """
[[input]]
name = "picture"
tensor = "x"
encodings = ["PNG", "JPEG"]
"""


def write_models(root: Path) -> None:
    """Writes `double` (y = 2x, 4 wide), `sum` (a running sum of 2), `both` (y = x, z = -x), `picture` (y: the bytes of
    one pixel, red, green, blue) and `slow` (milliseconds of work for each frame, one by one).
    """
    graphs.save(root, "double", graphs.scaling())
    graphs.save(root, "sum", graphs.summing(), toml=graphs.SUMMING)
    graphs.save(root, "both", graphs.two_outputs())
    graphs.save(root, "picture", graphs.copying(("N", 1, 1, 3), TensorProto.UINT8), toml=PICTURE)
    graphs.save(root, "slow", graphs.slow(rounds=20), toml="batch_sizes = [1]\n")
