"""Write an ONNX model from a Darknet ``.cfg`` and ``.weights``, for the layers that YOLOv2-tiny is made of.

Supported: ``[convolutional]`` (with or without batch normalisation, which is folded into its weights; leaky or linear
activation), ``[maxpool]``, and ``[region]`` as the end. The decoding that ``[region]`` does in Darknet is left to
whoever reads the grid: its channels are, for each anchor in turn, x, y, w, h, objectness and the classes, all of them
before sigmoid, exp and softmax.

The rules are those of Darknet's C code (pjreddie/darknet, ``src/parser.c``, ``convolutional_layer.c``,
``maxpool_layer.c``, ``blas.c``). What is not known is refused by name, down to single options, so that a model that
converts computes what Darknet computes.
"""

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

# A pair from ONNX 1.12 (2022): every runtime since then loads it, and no layer here needs more.
_OPSET: Final = 17
_IR_VERSION: Final = 8

_LEAKY_SLOPE: Final = 0.1  # activations.h, leaky_activate
_BATCH_NORM_EPSILON: Final = 1e-6  # blas.c, normalize_cpu: added to the standard deviation, not to the variance

_CONVOLUTIONAL_OPTIONS: Final = frozenset({"batch_normalize", "filters", "size", "stride", "pad", "activation"})
_MAXPOOL_OPTIONS: Final = frozenset({"size", "stride"})


class DarknetError(Exception):
    """The cfg or the weights cannot be converted; the message names the file and, in a cfg, the line and section."""


@dataclass(frozen=True, slots=True)
class _Section:
    """One ``[kind]`` of a cfg and its options, each with the number of its line."""

    cfg: Path
    kind: str
    line: int
    options: dict[str, tuple[str, int]] = field(default_factory=dict)

    def error(self, problem: str, line: int | None = None) -> DarknetError:
        return DarknetError(f"{self.cfg}, line {line or self.line}, [{self.kind}]: {problem}")

    def integer(self, key: str, default: int, *, least: int = 1) -> int:
        """Return option ``key``, an integer of at least ``least``, or ``default`` if it is not there."""
        value, line = self.options.get(key, (str(default), self.line))
        if not value.isdecimal() or int(value) < least:
            raise self.error(f"{key}={value} is not an integer of at least {least}", line)
        return int(value)

    def refuse_others(self, known: frozenset[str]) -> None:
        """Raise if there is an option that is not ``known``: it might change what the layer computes."""
        for key, (value, line) in self.options.items():
            if key not in known:
                raise self.error(f"option {key}={value} is not supported", line)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Shape of one image on its way through the layers."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class _Layer:
    """A square window that slides over the image: what convolution and pooling have in common."""

    size: int
    stride: int
    pad_before: int  # at the top and the left
    pad_after: int  # at the bottom and the right

    def output(self, shape: _Shape, channels: int, section: _Section) -> _Shape:
        padding = self.pad_before + self.pad_after
        height = (shape.height + padding - self.size) // self.stride + 1
        width = (shape.width + padding - self.size) // self.stride + 1
        if min(height, width) < 1:
            raise section.error(f"a window of {self.size} is larger than its input of {shape.height}x{shape.width}")
        return _Shape(channels, height, width)

    def node(self, op_type: str, inputs: list[str], output: str) -> onnx.NodeProto:
        return helper.make_node(
            op_type,
            inputs,
            [output],
            kernel_shape=[self.size] * 2,
            strides=[self.stride] * 2,
            pads=[self.pad_before] * 2 + [self.pad_after] * 2,
        )


@dataclass(frozen=True, slots=True)
class _MaxPool(_Layer):
    pass


@dataclass(frozen=True, slots=True)
class _Convolution(_Layer):
    inputs: int
    filters: int
    batch_normalize: bool
    leaky: bool

    @property
    def weight_count(self) -> int:
        return self.filters * self.inputs * self.size**2

    @property
    def float_count(self) -> int:
        """How many floats of the weights file are this layer's."""
        return self.filters * (4 if self.batch_normalize else 1) + self.weight_count

    def fold(self, floats: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return kernel ``[filters, inputs, size, size]`` and bias ``[filters]`` with the normalisation worked in.

        ``floats`` are biases, then, if normalised, scales, means and variances, then weights: the order of
        ``load_convolutional_weights``.
        """
        kernel = floats[-self.weight_count :].reshape(self.filters, self.inputs, self.size, self.size)
        bias = floats[: self.filters]
        if not self.batch_normalize:
            return kernel, bias
        scale, mean, variance = floats[self.filters : 4 * self.filters].reshape(3, -1).astype(np.float64)
        factor = scale / (np.sqrt(variance) + _BATCH_NORM_EPSILON)
        return (
            (kernel * factor[:, None, None, None]).astype(np.float32),
            (bias - mean * factor).astype(np.float32),
        )


@dataclass(frozen=True, slots=True)
class _Network:
    layers: tuple[_Convolution | _MaxPool, ...]
    input: _Shape
    output: _Shape


def convert(cfg: Path, weights: Path, out: Path) -> None:
    """Write the network of ``cfg`` with the parameters of ``weights`` to ``out``, as a checked ONNX model.

    For YOLOv2-tiny it maps ``images``, float32 ``[N, 3, 416, 416]`` (RGB, 0 to 1), to ``grid``, float32
    ``[N, 425, 13, 13]``, for any batch size N; another cfg has its own numbers. ``out`` appears whole or not at all.

    Raises:
        DarknetError: ``cfg`` has a layer or an option that is not supported, or ``weights`` does not hold exactly the
            floats that the layers need.
        OSError: a file can't be read or written.
    """
    network = _plan(_parse(cfg))
    model = _build(network, _read_floats(weights, network))
    onnx.checker.check_model(model, full_check=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        onnx.save_model(model, partial)
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _parse(cfg: Path) -> list[_Section]:
    """Read the sections as ``read_cfg`` does: blanks mean nothing anywhere, and the first of two equal keys counts."""
    sections: list[_Section] = []
    for number, text in enumerate(cfg.read_text("utf-8").splitlines(), start=1):
        line = "".join(text.split())
        if not line or line[0] in "#;":
            continue
        key, equals, value = line.partition("=")
        if line[0] == "[" and line[-1] == "]":
            sections.append(_Section(cfg, line[1:-1], number))
        elif equals and sections:
            sections[-1].options.setdefault(key, (value, number))
        else:
            raise DarknetError(f"{cfg}, line {number}: neither a [section] nor a key=value in one: {text.strip()}")
    if not sections:
        raise DarknetError(f"{cfg}: no section in it")
    return sections


def _plan(sections: list[_Section]) -> _Network:
    """Turn the sections into layers, following the shape of an image from one to the next."""
    net, *body = sections
    if net.kind not in ("net", "network"):
        raise net.error("the first section must be [net]")
    # What else [net] says is about training.
    shape = start = _Shape(net.integer("channels", 0), net.integer("height", 0), net.integer("width", 0))
    layers: list[_Convolution | _MaxPool] = []
    for section in body:
        match section.kind:
            case "convolutional":
                convolution = _plan_convolution(section, shape.channels)
                shape = convolution.output(shape, convolution.filters, section)
                layers.append(convolution)
            case "maxpool":
                pool = _plan_maxpool(section)
                shape = pool.output(shape, shape.channels, section)
                layers.append(pool)
            case "region":
                if not layers or section is not body[-1]:
                    raise section.error("must be the last section, after at least one layer")
                per_anchor = section.integer("coords", 4, least=0) + 1 + section.integer("classes", 20, least=0)
                channels = section.integer("num", 1) * per_anchor
                if channels != shape.channels:
                    raise section.error(
                        f"anchors and classes need {channels} channels, the layer before has {shape.channels}"
                    )
            case _:
                raise section.error("layer is not supported; convolutional, maxpool and region are")
    if sections[-1].kind != "region":
        raise sections[-1].error("the last section must be [region]")
    return _Network(tuple(layers), start, shape)


def _plan_convolution(section: _Section, inputs: int) -> _Convolution:
    section.refuse_others(_CONVOLUTIONAL_OPTIONS)
    activation, line = section.options.get("activation", ("logistic", section.line))  # parser.c's default
    if activation not in ("leaky", "linear"):
        raise section.error(f"activation {activation} is not supported; leaky and linear are", line)
    size = section.integer("size", 1)
    pad = size // 2 if section.integer("pad", 0, least=0) else 0
    return _Convolution(
        size=size,
        stride=section.integer("stride", 1),
        pad_before=pad,
        pad_after=pad,
        inputs=inputs,
        filters=section.integer("filters", 1),
        batch_normalize=section.integer("batch_normalize", 0, least=0) != 0,
        leaky=activation == "leaky",
    )


def _plan_maxpool(section: _Section) -> _MaxPool:
    section.refuse_others(_MAXPOOL_OPTIONS)
    stride = section.integer("stride", 1)
    size = section.integer("size", stride)
    # Darknet pads by size - 1 in all and starts at -(that // 2), so a window of 2 hangs over at the bottom and the
    # right only, and with stride 1 keeps the size. Padding never wins: it is -FLT_MAX there, minus infinity in ONNX.
    before = (size - 1) // 2
    return _MaxPool(size=size, stride=stride, pad_before=before, pad_after=size - 1 - before)


def _read_floats(weights: Path, network: _Network) -> npt.NDArray[np.float32]:
    """Return the parameters of all layers, in file order, as one array.

    Raises:
        DarknetError: there are more or fewer of them than the layers need.
    """
    data = weights.read_bytes()
    if len(data) < 20:
        raise DarknetError(f"{weights}: {len(data)} bytes hold no Darknet header and weights")
    # load_weights_upto: int32 major, minor and revision, then how many images were seen, 64 bits wide since 0.2.
    major, minor = struct.unpack_from("<ii", data)
    header = 20 if major * 10 + minor >= 2 and max(major, minor) < 1000 else 16
    needed = sum(layer.float_count for layer in network.layers if isinstance(layer, _Convolution))
    found, odd_bytes = divmod(len(data) - header, 4)
    if (found, odd_bytes) != (needed, 0):
        difference = f"{needed - found:,} are missing" if found < needed else f"{found - needed:,} are left over"
        cut = f" and it ends within a float ({odd_bytes} bytes too many)" if odd_bytes else ""
        raise DarknetError(f"{weights}: the layers need {needed:,} floats, the file has {found:,}: {difference}{cut}")
    return np.frombuffer(data, dtype="<f4", offset=header)


def _build(network: _Network, floats: npt.NDArray[np.float32]) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    tensor = "images"
    for index, layer in enumerate(network.layers):
        name = f"layer{index}"
        match layer:
            case _Convolution():
                own, floats = floats[: layer.float_count], floats[layer.float_count :]
                kernel, bias = layer.fold(own)
                initializers.append(numpy_helper.from_array(kernel, f"{name}.kernel"))
                initializers.append(numpy_helper.from_array(bias, f"{name}.bias"))
                nodes.append(layer.node("Conv", [tensor, f"{name}.kernel", f"{name}.bias"], name))
                if layer.leaky:
                    nodes.append(helper.make_node("LeakyRelu", [name], [f"{name}.leaky"], alpha=_LEAKY_SLOPE))
            case _MaxPool():
                nodes.append(layer.node("MaxPool", [tensor], name))
        tensor = nodes[-1].output[0]
    nodes[-1].output[0] = "grid"
    graph = helper.make_graph(
        nodes, "darknet", [_value("images", network.input)], [_value("grid", network.output)], initializers
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="duly"
    )


def _value(name: str, shape: _Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", shape.channels, shape.height, shape.width])
