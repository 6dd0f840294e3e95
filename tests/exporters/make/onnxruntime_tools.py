"""What is made of a graph before it is deployed: ONNX Runtime's quantisation, FP16 by onnxconverter-common.

The answers are those of onnx's reference evaluator, frame by frame. It has no operators of static quantisation as ONNX
Runtime's tools write it; there the answers are ONNX Runtime's own, with every optimisation off.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from keeping import Kept
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxconverter_common import float16
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

rng = np.random.default_rng(12)
FOLDER = Path(tempfile.mkdtemp())
kept = Kept("onnxruntime", "onnxruntime", "onnxconverter-common", "onnx")


def values(**arrays):
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def model(nodes, takes, gives, constants, opset=17):
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in takes.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in gives.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, values(**constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def mlp():
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("MatMul", ["h2", "w2"], ["y"]),
    ]
    constants = {"w1": rng.normal(size=(16, 16)).astype("f4"), "w2": rng.normal(size=(16, 4)).astype("f4")}
    return model(nodes, {"x": ["batch", 16]}, {"y": ["batch", 4]}, constants)


def convolutional():
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("GlobalAveragePool", ["h2"], ["h3"]),
        helper.make_node("Flatten", ["h3"], ["h4"]),
        helper.make_node("Gemm", ["h4", "w2", "b2"], ["y"]),
    ]
    constants = {
        "w": rng.normal(size=(8, 3, 3, 3)).astype("f4"),
        "b": rng.normal(size=8).astype("f4"),
        "w2": rng.normal(size=(8, 4)).astype("f4"),
        "b2": rng.normal(size=4).astype("f4"),
    }
    return model(nodes, {"x": ["batch", 3, 8, 8]}, {"y": ["batch", 4]}, constants)


def answers(proto, frames):
    evaluator, (name,) = ReferenceEvaluator(proto), [each.name for each in proto.graph.output]
    return [({"x": frame}, {name: evaluator.run(None, {"x": frame[None]})[0][0]}) for frame in frames]


def unoptimised(file, frames):
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    session = InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (name,) = [each.name for each in session.get_outputs()]
    return [({"x": frame}, {name: session.run(None, {"x": frame[None]})[0][0]}) for frame in frames]


VECTORS = [scale * rng.normal(size=16).astype("f4") for scale in (1, 1, 10, 1, 100, 1)]
PICTURES = [rng.uniform(-1, 1, (3, 8, 8)).astype("f4") for _ in range(5)]


class Calibration(CalibrationDataReader):
    def __init__(self, frames):
        self.batches = iter([{"x": frame[None]} for frame in frames])

    def get_next(self):
        return next(self.batches, None)


plain, dense = FOLDER / "convolutional.onnx", FOLDER / "mlp.onnx"
onnx.save(convolutional(), plain)
onnx.save(mlp(), dense)
for name, source, frames in (("dynamic_int8", dense, VECTORS), ("dynamic_int8_conv", plain, PICTURES)):
    file = FOLDER / f"{name}.onnx"
    quantize_dynamic(source, file, weight_type=QuantType.QUInt8)
    kept.keep(
        name,
        f"`quantize_dynamic` of {'an MLP' if source == dense else 'a convolutional net'}: scales come from the batch",
        file,
        answers(onnx.load(file), frames),
    )
for name, how, options in (
    ("static_qdq", "`quantize_static`, QDQ, as it is", {"quant_format": QuantFormat.QDQ}),
    ("static_qoperator", "`quantize_static`, QOperator", {"quant_format": QuantFormat.QOperator}),
    (
        "static_qdq_per_channel",
        "`quantize_static`, QDQ, `per_channel=True`, symmetric",
        {"quant_format": QuantFormat.QDQ, "per_channel": True, "extra_options": {"ActivationSymmetric": True}},
    ),
):
    file, prepared = FOLDER / f"{name}.onnx", FOLDER / "prepared.onnx"
    quant_pre_process(plain, prepared)
    quantize_static(
        prepared,
        file,
        Calibration(PICTURES),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QUInt8 if not options.get("per_channel") else QuantType.QInt8,
        reduce_range=bool(options.get("per_channel")),
        **options,
    )
    kept.keep(name, how, file, unoptimised(file, PICTURES))
file = FOLDER / "static_int16.onnx"
quantize_static(
    plain,
    file,
    Calibration(PICTURES),
    quant_format=QuantFormat.QDQ,
    activation_type=QuantType.QInt16,
    weight_type=QuantType.QInt8,
)
kept.keep("static_int16", "`quantize_static`, QDQ, activations of 16 bits", file, unoptimised(file, PICTURES))
options = SessionOptions()
options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_EXTENDED
options.optimized_model_filepath = str(FOLDER / "optimised.onnx")
InferenceSession(plain, options, providers=["CPUExecutionProvider"])
kept.keep(
    "optimised",
    "`optimized_model_filepath`, with ONNX Runtime's own operators",
    FOLDER / "optimised.onnx",
    unoptimised(plain, PICTURES),
)
for name, how, options in (
    ("float16", "`convert_float_to_float16`: FP16 in and out", {}),
    ("float16_keep_io", "`convert_float_to_float16`, `keep_io_types=True`", {"keep_io_types": True}),
):
    halved = float16.convert_float_to_float16(onnx.load(plain), **options)
    frames = [frame.astype("f4" if options else "f2") for frame in PICTURES]
    kept.keep(name, how, halved, answers(halved, frames))
weights = FOLDER / "weights.onnx"
onnx.save(
    convolutional(),
    weights,
    save_as_external_data=True,
    location="weights.onnx.data",
    size_threshold=0,
    all_tensors_to_one_file=True,
)
kept.keep(
    "weights", "`save_as_external_data=True`: weights in a file beside", weights, answers(onnx.load(weights), PICTURES)
)
whole = onnx.load(plain)
del whole.graph.value_info[:]
for each in [*whole.graph.input, *whole.graph.output]:
    for dim in each.type.tensor_type.shape.dim:
        dim.Clear()
kept.keep(
    "all_open",
    "every dimension made open, as some tools do",
    whole,
    answers(onnx.load(plain), PICTURES),
    '[[input]]\nname = "x"\nshape = [3, 8, 8]\n',
)
