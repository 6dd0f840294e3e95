"""The models that the benchmark serves, made here: their weights mean nothing, their cost does.

    python -m duly_load.models.graphs FOLDER     # writes them as a model repository

`mlp` 256 -> 64 -> 10 takes 1 KB and next to no time, `wide` takes 150 KB and next to no time, `squeezenet` takes
602 KB and 6-8 ms on one core.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

THREADS = 1
"""Intra-op threads of every model, in the server and bare: a figure for one core."""
OPSET = 17
IR_VERSION = 8
"""Of ONNX Runtime 1.12 and later."""
SEED = 20240229


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model with one FP32 input and one output, and a symbolic batch dimension."""

    name: str
    input_shape: tuple[int, ...]
    """Without the batch dimension."""
    batch_sizes: tuple[int, ...]
    build: Callable[[], onnx.ModelProto]

    @property
    def frame_bytes(self) -> int:
        """Payload of one frame."""
        return 4 * prod(self.input_shape)

    def file(self, repository: Path) -> Path:
        """Its graph within a repository that `write_repository` made."""
        return repository / self.name / "1" / "model.onnx"


def _mlp() -> onnx.ModelProto:
    random = np.random.default_rng(SEED)
    widths = (256, 64, 10)
    nodes, weights, tensor = [], [], "x"
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
        last = layer == len(widths) - 2
        weight = random.standard_normal((fan_in, fan_out), dtype=np.float32) / np.float32(np.sqrt(fan_in))
        weights.append(numpy_helper.from_array(weight, f"weight_{layer}"))
        weights.append(numpy_helper.from_array(np.zeros(fan_out, np.float32), f"bias_{layer}"))
        sums = "y" if last else f"sums_{layer}"
        nodes.append(helper.make_node("Gemm", [tensor, f"weight_{layer}", f"bias_{layer}"], [sums]))
        if not last:
            tensor = f"hidden_{layer}"
            nodes.append(helper.make_node("Relu", [sums], [tensor]))
    return _model("mlp", nodes, weights, (widths[0],), (widths[-1],))


def _wide() -> onnx.ModelProto:
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=1)
    return _model("wide", [node], [], (37_500,), (1,))


def _squeezenet() -> onnx.ModelProto:
    """ONNX's own test model, which has constant weights, with its batch dimension made symbolic."""
    file = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_squeezenet.onnx"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: not in this onnx package; the release 1.23 has it")
    model = onnx.load(file)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]  # initialisers that are inputs as well may be overridden, which forbids constant folding
    model.graph.input.extend(inputs)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    weights: list[TensorProto],
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *input_shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *output_shape])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


MLP = BenchModel("mlp", (256,), (1, 2, 4, 8, 16, 32, 64, 128), _mlp)
WIDE = BenchModel("wide", (37_500,), (1, 2, 4, 8), _wide)
SQUEEZENET = BenchModel("squeezenet", (3, 224, 224), (1, 2, 4), _squeezenet)
MODELS = (MLP, WIDE, SQUEEZENET)


def write_repository(folder: Path, models: tuple[BenchModel, ...] = MODELS) -> None:
    """Writes `NAME/1/model.onnx` and `NAME/model.toml` of each model into `folder`, which it makes if need be."""
    for model in models:
        file = model.file(folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model.build(), file)
        config = f"batch_sizes = {list(model.batch_sizes)}\nthreads = {THREADS}\n"
        (folder / model.name / "model.toml").write_text(config, encoding="utf-8")


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Write the benchmark's models into FOLDER as a model repository."""
    write_repository(folder)
    click.echo(f"{folder}: {', '.join(model.name for model in MODELS)}")


if __name__ == "__main__":
    main()
