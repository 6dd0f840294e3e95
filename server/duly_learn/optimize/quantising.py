"""What the steps that make whole numbers of 8 bits have in common."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from duly_learn.graphs.describe import QUANTISED, operators
from duly_learn.optimize.step import OptimizeSource, Refused

_DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "asimddp", "amx_int8", "i8mm"}
"""Flags in /proc/cpuinfo of instructions that add products of 8 bits up in 32."""


def check_not_quantised(model: onnx.ModelProto) -> dict[str, int]:
    """Returns the operators of a graph. Raises Refused where it has numbers of 8 bits already."""
    found = operators(model)
    if already := sorted(QUANTISED & found.keys()):
        raise Refused(f"the graph is quantised already: it has {found[already[0]]} nodes {already[0]}")
    return found


def prepared(source: OptimizeSource, folder: Path) -> Path:
    """Writes the graph as quantisation wants it: shapes inferred, batch normalisation in the convolutions before it,
    biases of one dimension, and each node with a name. Raises Refused.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = folder / "prepared.onnx"
    try:
        with quiet():
            quant_pre_process(str(source.graph), str(path), skip_symbolic_shape=True)
        model = onnx.load(str(path))
    except OSError:
        raise  # such as a full disk, which is no fault of the graph's
    except Exception as error:  # it fails in as many ways as there are graphs
        raise Refused(f"the graph cannot be prepared for it: {type(error).__name__}: {error}") from error
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    _flatten_biases(model.graph)
    onnx.save(model, str(path))
    return path


def _flatten_biases(graph: onnx.GraphProto) -> None:
    """Makes [N] of biases of [1, N], as scikit-learn's perceptrons have them: a Gemm adds them up alike, and the
    quantiser takes each entry of the first dimension for a number.
    """
    elsewhere = {value.name for value in (*graph.input, *graph.output)}
    biases: set[str] = set()
    for node in graph.node:
        factors = 2 if node.op_type == "Gemm" else len(node.input)
        elsewhere |= set(node.input[:factors])
        biases |= set(node.input[factors:])
    for weights in graph.initializer:
        if weights.name in biases - elsewhere and len(weights.dims) == 2 and weights.dims[0] == 1:
            del weights.dims[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps onnxruntime.quantization from advising on standard error what is done here anyway."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)


def adds_products_of_8_bits(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's processor adds such products up without overflow. Others need weights of 7 bits."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return False
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return not _DOT_PRODUCTS.isdisjoint(next(lines, "").split())
