"""The models that are measured: an MLP that takes next to no time, SqueezeNet in numbers of 32 and of 16 bits, and as
many dense layers as are wanted. What their weights mean does not matter to what they cost; but answers are to differ
and to be finite, so that those of two ways can be compared.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from duly.accelerators import CPU, TENSORRT, of_lane
from duly.worker.dtypes import Array
from duly_learn.graphs.constants import forget_unread
from duly_load.graphs import GRAPHS

SEED = 20240229
PROVIDER_OPTIONS = {TENSORRT: {"trt_fp16_enable": "True"}}
"""What is asked of a provider beside the device, of duly's worker and of ONNX Runtime alone alike."""


@dataclass(frozen=True, slots=True)
class Measured:
    graph: str
    """One of those that duly_load makes."""
    half: bool = False
    """Whether its numbers are converted to 16 bits, inputs and outputs too."""

    @property
    def name(self) -> str:
        return f"{self.graph}-{'fp16' if self.half else 'fp32'}"

    def build(self) -> onnx.ModelProto:
        model = with_weights(GRAPHS[self.graph].build())
        if not self.half:
            return model
        from onnxruntime.transformers.float16 import convert_float_to_float16

        halved: onnx.ModelProto = convert_float_to_float16(model)
        return halved

    def frames(self, count: int) -> Array:
        """Random frames, as a batch."""
        kind = np.float16 if self.half else np.float32
        shape = GRAPHS[self.graph].input_shape
        return np.random.default_rng(SEED).standard_normal((count, *shape), np.float32).astype(kind)


def with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Gives each tensor that the graph fills with one number random values, of a size at which what comes between
    neither grows nor fades from layer to layer (He et al., 2015). In ONNX's SqueezeNet all weights are 0.02: whatever
    it is shown, it answers 1/1000 for every class, and numbers in it grow beyond what 16 bits hold.
    """
    random = np.random.default_rng(SEED)
    values = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape = values[node.input[0]].tolist()
        spread = np.sqrt(2 / prod(shape[1:])) if shape[1:] else 0.0  # biases are 0
        weight = (random.standard_normal(shape) * spread).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    forget_unread(model)
    return model


def write_model(root: Path, measured: Measured, provider: str, sizes: tuple[int, ...], rehearsal: bool) -> bytes:
    """Writes the model into the repository `root`, and returns its graph. `rehearsal`: its warm-up is short."""
    graph = measured.build().SerializeToString()
    folder = root / measured.name
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.onnx").write_bytes(graph)
    lines = [f"batch_sizes = {[*sizes]}", *(["warmup_runs = 3"] if rehearsal else [])]
    if provider:
        options = ", ".join(f'{key} = "{value}"' for key, value in PROVIDER_OPTIONS.get(provider, {}).items())
        lines.append(f'providers = [{{ name = "{provider}", options = {{ {options} }} }}]')
    (folder / "model.toml").write_text("\n".join(lines) + "\n")
    return graph


def dense_layers(width: int, layers: int) -> onnx.ModelProto:
    """Returns a graph of `x` to `y`, FP32 of [N, width], whose cost grows with its layers. They share one matrix, and
    each is shown `x` as well and halves the rest, so that rounding does not add up from layer to layer.
    """
    matrix = np.random.default_rng(SEED).standard_normal((width, width), np.float32) * np.float32(0.5 / np.sqrt(width))
    nodes, tensor = [], "x"
    for layer in range(layers):
        result = "y" if layer == layers - 1 else f"layer_{layer}"
        nodes.append(helper.make_node("MatMul", [tensor, "matrix"], [f"product_{layer}"]))
        nodes.append(helper.make_node("Add", [f"product_{layer}", "x"], [f"sum_{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"sum_{layer}"], [result]))
        tensor = result
    (x, y) = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", width]) for name in "xy")
    graph = helper.make_graph(nodes, "dense", [x], [y], [numpy_helper.from_array(matrix, "matrix")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def engine_ranges(graph: bytes, sizes: tuple[int, ...]) -> dict[str, str]:
    """Returns the options by which TensorRT compiles for batches of these sizes, as duly's worker gives them: without
    them it would make another engine, and another one for each size.
    """
    (taken,) = onnx.load_from_string(graph).graph.input
    extents = [str(dim.dim_value) for dim in taken.type.tensor_type.shape.dim[1:]]
    least, most = (f"{taken.name}:{'x'.join([str(size), *extents])}" for size in (1, max(sizes)))
    return {"trt_profile_min_shapes": least, "trt_profile_opt_shapes": most, "trt_profile_max_shapes": most}


def bare_session(
    graph: bytes, lane: str, provider: str = "", sizes: tuple[int, ...] = (1,)
) -> onnxruntime.InferenceSession:
    """Opens the graph as a program without duly would, on the same device. `sizes`: of the batches, which TensorRT has
    to know. Raises RuntimeError where ONNX Runtime gives another provider than was asked for.
    """
    own = of_lane(lane)
    name = provider or own.provider
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    values = {own.device_option: lane.partition(":")[2]} if own.device_option else {}
    values |= PROVIDER_OPTIONS.get(name, {}) | (engine_ranges(graph, sizes) if name == TENSORRT else {})
    if name != CPU:
        onnxruntime.preload_dlls()
    session = onnxruntime.InferenceSession(graph, options, [(name, values)])
    if session.get_providers()[0] != name:
        raise RuntimeError(f"session.run alone: {name} was asked for, and the session has {session.get_providers()}")
    return session
