"""How large weights are, by the names of files: of graphs, and of what lies beside them under their names."""

from pathlib import Path

import pytest

from duly.models.spec import Variant
from duly.models.weights import variant_bytes, weights_bytes

FP32, INT8 = Variant(name="fp32", file="model.onnx"), Variant(name="int8", file="model.int8.onnx")


@pytest.mark.parametrize("beside", ["model.onnx.data", "model.onnx_data", "model.data", "model_data", "model.bin"])
def test_external_data_counts_with_its_graph(tmp_path: Path, beside: str) -> None:
    for name, size in {"model.onnx": 10, beside: 1000, "model.int8.onnx": 3, "other.data": 7, "labels.txt": 5}.items():
        (tmp_path / name).write_bytes(bytes(size))
    assert variant_bytes(tmp_path, FP32) == 1010
    assert variant_bytes(tmp_path, INT8) == 3
    assert weights_bytes(tmp_path, (FP32, INT8)) == 1013


def test_what_cannot_be_looked_at_counts_nothing(tmp_path: Path) -> None:
    assert variant_bytes(tmp_path / "gone", FP32) == 0
    (tmp_path / "model.onnx").symlink_to("nothing")
    assert variant_bytes(tmp_path, FP32) == 0
