"""Random graphs of convolutional and dense networks, whose weights are small whole numbers: then sums are exact."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 8


@dataclass
class Builder:
    """Adds nodes one after another; the newest tensor has `width` channels and `size` rows and columns."""

    random: np.random.Generator
    exact: bool
    """Only operators whose results on whole numbers are exact."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    tensor: str = "x"
    width: int = 3
    size: int = SIZE
    count: int = 0

    def array(self, value: np.ndarray) -> str:
        self.count += 1
        self.initializers.append(numpy_helper.from_array(value, f"w{self.count}"))
        return f"w{self.count}"

    def weights(self, *shape: int) -> str:
        if self.exact:
            return self.array(self.random.integers(-2, 3, shape).astype(np.float32))
        return self.array((self.random.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32))

    def add(self, op: str, inputs: list[str], **attributes: object) -> str:
        self.count += 1
        output = f"t{self.count}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"n{self.count}", **attributes))
        return output

    def conv(self, width: int, kernel: int = 3, stride: int = 1) -> None:
        inputs = [self.tensor, self.weights(width, self.width, kernel, kernel)]
        if self.random.random() < 0.7:
            inputs.append(self.weights(width))
        pad = kernel // 2
        self.tensor = self.add("Conv", inputs, pads=[pad] * 4, strides=[stride, stride], kernel_shape=[kernel] * 2)
        self.width, self.size = width, -(-self.size // stride)

    def depthwise(self) -> None:
        weight = self.weights(self.width, 1, 3, 3)
        self.tensor = self.add("Conv", [self.tensor, weight], pads=[1] * 4, group=self.width)

    def activation(self) -> None:
        kinds = ["Relu", "LeakyRelu", "PRelu", "Clip"]
        if not self.exact:
            kinds += ["Sigmoid", "Tanh", "HardSwish", "Elu", "HardSigmoid", "Softplus"]
        kind = kinds[int(self.random.integers(len(kinds)))]
        inputs = [self.tensor]
        if kind == "PRelu":
            inputs.append(self.array(np.full((self.width, 1, 1), 2.0, np.float32)))
        if kind == "Clip":
            inputs += [self.array(np.array(-8, np.float32)), self.array(np.array(8, np.float32))]
        self.tensor = self.add(kind, inputs, **({"alpha": 0.5} if kind == "LeakyRelu" else {}))

    def normalisation(self) -> None:
        shape = (self.width,)
        variance = np.ones(shape) if self.exact else self.random.uniform(0.5, 2, shape)
        # Epsilon is nothing, so that one over the root of a variance of one is one.
        parts = [
            self.weights(*shape),
            self.weights(*shape),
            self.weights(*shape),
            self.array(variance.astype(np.float32)),
        ]
        self.tensor = self.add("BatchNormalization", [self.tensor, *parts], epsilon=0.0 if self.exact else 1e-3)

    def pool(self) -> None:
        if self.size < 4:
            return
        kind = "MaxPool" if self.exact or self.random.random() < 0.5 else "AveragePool"
        self.tensor = self.add(kind, [self.tensor], kernel_shape=[2, 2], strides=[2, 2])
        self.size //= 2

    def residual(self) -> None:
        start = self.tensor
        self.conv(self.width)
        self.activation()
        self.conv(self.width)
        self.tensor = self.add("Add", [self.tensor, start])

    def branches(self) -> None:
        start, width = self.tensor, self.width
        parts, total = [], 0
        for _ in range(2):
            self.tensor, self.width = start, width
            self.conv(int(self.random.integers(2, 6)), kernel=1)
            self.activation()
            parts.append(self.tensor)
            total += self.width
        self.tensor, self.width = self.add("Concat", parts, axis=1), total

    def excitation(self) -> None:
        """Channels weighted by what a small dense part makes of them."""
        start, width = self.tensor, self.width
        self.tensor = self.add("GlobalMaxPool", [self.tensor])
        self.conv(width, kernel=1)
        self.activation()
        self.tensor = self.add("Mul", [start, self.tensor])

    def head(self, classes: int = 4) -> None:
        kind = int(self.random.integers(4))
        flat = self.width
        if kind == 0:
            self.tensor = self.add("Flatten", [self.tensor])
            flat *= self.size * self.size
        elif kind == 1:
            shape = self.array(np.array([-1, self.width * self.size * self.size], np.int64))
            self.tensor = self.add("Reshape", [self.tensor, shape])
            flat *= self.size * self.size
        elif kind == 2:
            self.tensor = self.add("GlobalMaxPool", [self.tensor])
            self.tensor = self.add("Squeeze", [self.tensor, self.array(np.array([2, 3], np.int64))])
        else:
            self.tensor = self.add("ReduceMax", [self.tensor], axes=[2, 3], keepdims=0)
        if self.random.random() < 0.5:
            hidden = int(self.random.integers(3, 8))
            weight = self.weights(flat, hidden)
            self.tensor = self.add("MatMul", [self.tensor, weight])
            self.tensor = self.add("Add", [self.tensor, self.weights(hidden)])
            self.tensor = self.add("Relu", [self.tensor])
            flat = hidden
        transposed = int(self.random.integers(2))
        shape = (classes, flat) if transposed else (flat, classes)
        self.tensor = self.add("Gemm", [self.tensor, self.weights(*shape), self.weights(classes)], transB=transposed)

    def model(self) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def random_network(seed: int, exact: bool = True) -> onnx.ModelProto:
    """A network of a few layers with what a seed decides between an input [N, 3, 8, 8] and four numbers."""
    builder = Builder(np.random.default_rng(seed), exact)
    builder.conv(int(builder.random.integers(3, 8)))
    pieces = [
        builder.activation,
        builder.normalisation,
        builder.pool,
        builder.residual,
        builder.branches,
        builder.excitation,
        builder.depthwise,
        lambda: builder.conv(int(builder.random.integers(3, 8)), kernel=3, stride=2 if builder.size > 4 else 1),
    ]
    for _ in range(int(builder.random.integers(2, 6))):
        pieces[int(builder.random.integers(len(pieces)))]()
    builder.activation()
    builder.head()
    return builder.model()
