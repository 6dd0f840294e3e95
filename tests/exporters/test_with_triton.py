"""Models of real tools answer as their tools in a Triton repository, whose config.pbtxt states all of the graph."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.exporters.zoo import Exported, Tensors, exported
from tests.worker.client import Worker, version_of

KEYS = [
    "jax.flax_conv",
    "jax.two_outputs",
    "lightgbm.regressor",
    "scikit-learn.forest_columns",
    "torch.classes",
    "torch.double",
    "torch.half",
    "torch.odd_names",
    "torch.segmentation",
    "torch.text",
    "torch.uint8_and_bool",
]
TYPES = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64"}


def tensor(value: onnx.ValueInfoProto) -> str:
    """The fields of an input or output. One of a number a row has dims of [1], which Triton reshapes."""
    kind = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(kind.elem_type)
    dims = [each.dim_value or -1 for each in kind.shape.dim[1:]]
    shape = f"dims: {dims}" if dims else "dims: 1 reshape { shape: [ ] }"
    return f'{{ name: "{value.name}" data_type: TYPE_{TYPES.get(name, name)} {shape} }}'


def config_pbtxt(model: Exported) -> str:
    inputs, outputs = ([f"{kind} {tensor(each)}" for each in values] for kind, values in _tensors(model))
    return "\n".join(['platform: "onnxruntime_onnx"', "max_batch_size: 8", *inputs, *outputs, "dynamic_batching { }"])


def _tensors(model: Exported) -> list[tuple[str, list[onnx.ValueInfoProto]]]:
    initial = {each.name for each in model.graph.initializer}
    return [
        ("input", [each for each in model.graph.input if each.name not in initial]),
        ("output", list(model.graph.output)),
    ]


@pytest.mark.parametrize("key", KEYS)
def test_answers_are_those_of_the_tool(tmp_path: Path, key: str) -> None:
    model = next(each for each in exported() if each.key == key)
    model.put(tmp_path, "m", "")
    (tmp_path / "m" / "model.toml").unlink(missing_ok=True)
    (tmp_path / "m" / "config.pbtxt").write_text(config_pbtxt(model))
    version = version_of(tmp_path, "m")
    assert version.lines
    with Worker(version) as worker:
        assert worker.signature.batch_sizes[0] == 1
        for given, expected in model.frames:
            values = [
                given[spec.name].reshape(_fitting(given[spec.name], spec.shape)) for spec in worker.signature.inputs
            ]
            (outcome,) = worker.run([values])
            _same(outcome.outputs, expected)


def _fitting(array: np.ndarray, shape: tuple[int, ...]) -> tuple[int, ...]:
    return array.shape if len(array.shape) == len(shape) else shape


def _same(given: Tensors, expected: Tensors) -> None:
    assert given.keys() == expected.keys()
    for name, array in expected.items():
        within = 5e-3 if array.dtype == np.float16 else 1e-4
        np.testing.assert_allclose(given[name].ravel(), array.ravel(), rtol=within, atol=within, err_msg=name)
