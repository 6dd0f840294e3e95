"""Which channels of a graph stand and fall together.

A channel is born where a convolution or a dense layer computes it, and goes through the nodes behind: an activation
leaves it as it is, an addition ties it to a channel of the other branch, a concatenation puts it elsewhere, a
depthwise convolution makes another of it, flattening makes many. Each channel is an *atom*, a number of its own; every
tensor holds, along one axis, the atoms of its elements; and atoms that are tied are of one *class*. To take a channel
out is to take out its whole class, everywhere. The way is that of DepGraph (Fang et al. 2023, "DepGraph: Towards Any
Structural Pruning"), written for ONNX.

What a node does with channels that is not known here keeps them: their classes are `kept`, with the node's name.
"""

from collections.abc import Callable, Iterable

import numpy as np
import onnx

from duly_learn.graphs.constants import arrays_of, called, integer, integers
from duly_learn.graphs.followed import Atoms, Channels, Count, Cut, Group, Held, Layer
from duly_learn.graphs.shapes import shapes_of


def follow(model: onnx.ModelProto) -> Channels:
    """Follows the channels through a graph whose constants are initializers (`with_initializers`)."""
    return _Follower(model).run()


# fmt: off
_SAME = frozenset([
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Clip", "Elu", "Selu", "Celu", "Softplus",
    "Softsign", "Mish", "Gelu", "Swish", "Erf", "Sqrt", "Exp", "Log", "Abs", "Neg", "Reciprocal", "Floor", "Ceil",
    "Round", "Sign", "Identity", "Dropout", "Cast", "ThresholdedRelu",
])
# fmt: on
_POOLS = frozenset(["MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"])
_PAIRS = frozenset(["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Pow"])
_REDUCTIONS = frozenset(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceL1"])


class _Follower:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._nodes = model.graph.node
        self._arrays = arrays_of(model)
        self._outputs = {each.name for each in model.graph.output}
        self._shapes = shapes_of(model)
        self._parent: list[int] = []
        self._why: dict[int, str] = {}
        """Why an atom has to stay."""
        self._seen: set[tuple[str, int]] = set()
        """Uses of initializers that are accounted for: name and place of the node."""
        self._found = Channels()
        self._rules: dict[str, Callable[[int, onnx.NodeProto], None]] = {
            "Conv": self._convolution,
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "BatchNormalization": self._batch_norm,
            "PRelu": self._pair,
            "Concat": self._concat,
            "Flatten": self._reshape,
            "Reshape": self._reshape,
            "Squeeze": self._reshape,
            "Unsqueeze": self._reshape,
            "Transpose": self._transpose,
            "Pad": self._pad,
            "Softmax": self._along_other_axes,
            "LogSoftmax": self._along_other_axes,
        }
        self._rules |= dict.fromkeys(_SAME, self._same) | dict.fromkeys(_POOLS, self._pool)
        self._rules |= dict.fromkeys(_PAIRS, self._pair) | dict.fromkeys(_REDUCTIONS, self._reduce)

    def run(self) -> Channels:
        for place, node in enumerate(self._nodes):
            rule = self._rules.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            if rule is None:
                self._keep_inputs(node)
            else:
                rule(place, node)
            for output in node.output:
                if output in self._outputs and output in self._held:
                    self._keep(self._held[output].atoms, f"they are the graph's output '{output}'")
        self._tie_shared_initializers()
        self._sort_into_groups()
        return self._found

    # ---- atoms ----

    @property
    def _held(self) -> dict[str, Held]:
        return self._found.held

    def _new(self, count: int) -> Atoms:
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def _root(self, atom: int) -> int:
        while self._parent[atom] != atom:
            self._parent[atom] = self._parent[self._parent[atom]]
            atom = self._parent[atom]
        return atom

    def _tie(self, one: Atoms, other: Atoms) -> None:
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            self._parent[self._root(a)] = self._root(b)

    def _keep(self, atoms: Iterable[int], why: str) -> None:
        for atom in atoms:
            self._why.setdefault(int(atom), why)

    def _keep_inputs(self, node: onnx.NodeProto) -> None:
        for name in self._read_by(node):
            if name in self._held:
                self._keep(self._held[name].atoms, f"they go into {called(node)}, which is not followed")

    def _read_by(self, node: onnx.NodeProto) -> list[str]:
        """What a node reads, the graphs inside it included."""
        names = list(node.input)
        for each in node.attribute:
            for inner in (each.g, *each.graphs):
                for deeper in inner.node:
                    names += self._read_by(deeper)
        return names

    # ---- what initializers have for each atom ----

    def _cut(self, place: int, name: str, axis: int, atoms: Atoms) -> None:
        self._found.cuts.append(Cut(name, axis, atoms))
        self._seen.add((name, place))

    def _tie_shared_initializers(self) -> None:
        """Ties atoms that are elements of one initializer, and keeps those of which another node reads something."""
        first: dict[tuple[str, int], Atoms] = {}
        for cut in self._found.cuts:
            known = first.setdefault((cut.initializer, cut.axis), cut.atoms)
            if known is not cut.atoms:
                self._tie(known, cut.atoms)
        axes: dict[str, list[Atoms]] = {}
        for (name, _), atoms in first.items():
            axes.setdefault(name, []).append(atoms)
        for place, node in enumerate(self._nodes):
            for name in self._read_by(node):
                if name in axes and (name, place) not in self._seen:
                    for atoms in axes[name]:
                        self._keep(atoms, f"{called(node)} reads their weights too")

    # ---- rules ----

    def _layer(self, place: int, node: onnx.NodeProto, axis_in: int, axis_out: int, held: Held | None) -> None:
        weight = node.input[1]
        atoms = self._new(self._arrays[weight].shape[axis_out])
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and bias not in self._arrays:
            self._keep(atoms, f"the bias of {called(node)} is computed")
        elif bias:
            shape = self._arrays[bias].shape
            if shape and shape[-1] == len(atoms) > 1:
                self._cut(place, bias, len(shape) - 1, atoms)
        self._cut(place, weight, axis_out, atoms)
        if held:
            self._cut(place, weight, axis_in, held.atoms)
        rank = len(self._shapes[node.output[0]]) if node.output[0] in self._shapes else 0
        if node.op_type == "MatMul" and not rank:
            self._keep(atoms, f"the shape of what {called(node)} gives is not known")
        channel_axis = rank - 1 if node.op_type == "MatMul" else 1
        self._held[node.output[0]] = Held(channel_axis, atoms)
        before = None if held is None else held.atoms
        names = (node.input[0], node.output[0], weight, bias if bias in self._arrays else "")
        self._found.layers.append(Layer(place, called(node), *names, axis_in, axis_out, before, atoms))

    def _convolution(self, place: int, node: onnx.NodeProto) -> None:
        held = self._held.get(node.input[0])
        weight = self._arrays.get(node.input[1])
        if weight is None or (held and held.axis != 1):
            return self._keep_inputs(node)
        groups = integer(node, "group", 1)
        if groups == 1:
            return self._layer(place, node, 1, 0, held)
        if weight.shape[1] != 1 or held is None:
            return self._keep_inputs(node)
        atoms = np.repeat(held.atoms, weight.shape[0] // groups)
        self._cut(place, node.input[1], 0, atoms)
        if len(node.input) > 2 and node.input[2]:
            if node.input[2] not in self._arrays:
                return self._keep_inputs(node)
            self._cut(place, node.input[2], 0, atoms)
        self._found.counts.append(Count(place, "", 0, held.atoms))
        self._held[node.output[0]] = Held(1, atoms)
        return None

    def _gemm(self, place: int, node: onnx.NodeProto) -> None:
        held = self._held.get(node.input[0])
        if node.input[1] not in self._arrays or integer(node, "transA") or (held and held.axis != 1):
            return self._keep_inputs(node)
        transposed = integer(node, "transB")
        return self._layer(place, node, 1 if transposed else 0, 0 if transposed else 1, held)

    def _matmul(self, place: int, node: onnx.NodeProto) -> None:
        held = self._held.get(node.input[0])
        weight = self._arrays.get(node.input[1])
        shape = self._shapes.get(node.input[0])
        if weight is None or weight.ndim != 2 or (held and (shape is None or held.axis != len(shape) - 1)):
            return self._keep_inputs(node)
        return self._layer(place, node, 0, 1, held)

    def _batch_norm(self, place: int, node: onnx.NodeProto) -> None:
        held = self._held.get(node.input[0])
        if held is None:
            return
        if held.axis != 1 or integer(node, "training_mode") or any(n not in self._arrays for n in node.input[1:5]):
            return self._keep_inputs(node)
        for name in node.input[1:5]:
            self._cut(place, name, 0, held.atoms)
        self._held[node.output[0]] = held

    def _same(self, place: int, node: onnx.NodeProto) -> None:
        held = self._held.get(node.input[0])
        if held is not None:
            self._held[node.output[0]] = held

    def _pool(self, place: int, node: onnx.NodeProto) -> None:
        held = self._held.get(node.input[0])
        if held is None:
            return
        if held.axis != 1 or len(node.output) > 1:
            return self._keep_inputs(node)
        self._held[node.output[0]] = held

    def _pair(self, place: int, node: onnx.NodeProto) -> None:
        """Elementwise operators of two and more inputs, which broadcast."""
        if not any(name in self._held for name in node.input):
            return None
        shapes = [self._arrays[n].shape if n in self._arrays else self._shapes.get(n) for n in node.input]
        if any(shape is None for shape in shapes):
            return self._keep_inputs(node)
        known = [shape for shape in shapes if shape is not None]
        rank = max(len(shape) for shape in known)
        found: Held | None = None
        for name, shape in zip(node.input, known, strict=True):  # the wide ones first make `found`
            held = self._held.get(name)
            if held is None or shape[held.axis] == 1:
                continue
            moved = Held(held.axis + rank - len(shape), held.atoms)
            if found is None:
                found = moved
            elif found.axis == moved.axis and len(found.atoms) == len(moved.atoms):
                self._tie(found.atoms, moved.atoms)
            else:
                return self._keep_inputs(node)
        if found is None:
            return self._keep_inputs(node)
        for name, shape in zip(node.input, known, strict=True):
            axis = found.axis - (rank - len(shape))
            if name in self._held:
                if shape[self._held[name].axis] == 1:
                    self._keep(self._held[name].atoms, f"{called(node)} spreads them over others")
            elif name in self._arrays:
                if axis >= 0 and shape[axis] != 1:
                    self._cut(place, name, axis, found.atoms)
            elif axis >= 0 and shape[axis] != 1:
                self._keep(found.atoms, f"{called(node)} takes '{name}' besides, whose channels stay")
        self._held[node.output[0]] = found
        return None

    def _concat(self, place: int, node: onnx.NodeProto) -> None:
        held = [self._held.get(name) for name in node.input]
        first = next((each for each in held if each), None)
        if first is None:
            return None
        shape = self._shapes.get(node.output[0])
        if shape is None or any(each is not None and each.axis != first.axis for each in held):
            return self._keep_inputs(node)
        if integer(node, "axis") % len(shape) == first.axis:
            parts = []
            for name, each in zip(node.input, held, strict=True):
                if each is None:
                    width = self._shapes.get(name, (-1,) * len(shape))[first.axis]
                    if width < 0 or name in self._arrays:
                        return self._keep_inputs(node)
                    each = Held(first.axis, self._new(width))
                    self._keep(each.atoms, f"'{name}' is not computed by a layer that is followed")
                parts.append(each.atoms)
            self._held[node.output[0]] = Held(first.axis, np.concatenate(parts))
            return None
        if any(each is None for each in held):
            return self._keep_inputs(node)
        for each in held:
            if each is not None and each is not first:
                self._tie(first.atoms, each.atoms)
        self._held[node.output[0]] = first
        return None

    def _reshape(self, place: int, node: onnx.NodeProto) -> None:
        """Flatten, Squeeze, Unsqueeze and Reshape, as long as what lies before the channels stays as it is."""
        held = self._held.get(node.input[0])
        if held is None:
            return None
        before, after = self._shapes.get(node.input[0]), self._shapes.get(node.output[0])
        moved = None if before is None or after is None else _moved(held, before, after)
        if moved is None:
            return self._keep_inputs(node)
        if node.op_type == "Reshape":
            target = self._arrays.get(node.input[1])
            if target is None:
                return self._keep_inputs(node)
            if target[moved.axis] > 0:
                self._found.counts.append(Count(place, node.input[1], moved.axis, moved.atoms))
                self._seen.add((node.input[1], place))
        self._held[node.output[0]] = moved
        return None

    def _transpose(self, place: int, node: onnx.NodeProto) -> None:
        held = self._held.get(node.input[0])
        if held is None:
            return
        shape = self._shapes.get(node.input[0])
        order = integers(node, "perm", tuple(reversed(range(len(shape)))) if shape is not None else ())
        if not order:
            return self._keep_inputs(node)
        self._held[node.output[0]] = Held(order.index(held.axis), held.atoms)

    def _reduce(self, place: int, node: onnx.NodeProto) -> None:
        held = self._held.get(node.input[0])
        if held is None:
            return None
        shape = self._shapes.get(node.input[0])
        stated = self._arrays.get(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        axes = integers(node, "axes") or (() if stated is None else tuple(int(each) for each in stated.ravel()))
        if shape is None or not axes or held.axis in (places := {axis % len(shape) for axis in axes}):
            return self._keep_inputs(node)
        gone = 0 if integer(node, "keepdims", 1) else sum(axis < held.axis for axis in places)
        self._held[node.output[0]] = Held(held.axis - gone, held.atoms)
        return None

    def _pad(self, place: int, node: onnx.NodeProto) -> None:
        held = self._held.get(node.input[0])
        if held is None:
            return None
        shape = self._shapes.get(node.input[0])
        stated = self._arrays.get(node.input[1]) if len(node.input) > 1 else np.asarray(integers(node, "pads"))
        whole = shape is not None and stated is not None and stated.size == 2 * len(shape) and len(node.input) < 4
        if shape is None or stated is None or not whole or stated[[held.axis, held.axis + len(shape)]].any():
            return self._keep_inputs(node)
        self._held[node.output[0]] = held
        return None

    def _along_other_axes(self, place: int, node: onnx.NodeProto) -> None:
        held = self._held.get(node.input[0])
        if held is None:
            return None
        shape = self._shapes.get(node.input[0])
        if shape is None or integer(node, "axis", -1) % len(shape) == held.axis:
            return self._keep_inputs(node)
        self._held[node.output[0]] = held
        return None

    # ---- what can be taken out ----

    def _sort_into_groups(self) -> None:
        found = self._found
        found.roots = np.array([self._root(atom) for atom in range(len(self._parent))], np.int64)
        why = {int(found.roots[atom]): reason for atom, reason in self._why.items()}
        makers: dict[int, set[int]] = {}
        for place, layer in enumerate(found.layers):
            for root in found.roots[layer.atoms_out].tolist():
                makers.setdefault(root, set()).add(place)
        read = {int(r) for layer in found.layers if layer.atoms_in is not None for r in found.roots[layer.atoms_in]}
        sorted_by: dict[tuple[int, ...], list[int]] = {}
        for root, places in sorted(makers.items()):
            if root not in why and root in read:
                sorted_by.setdefault(tuple(sorted(places)), []).append(root)
        found.groups = [Group(layers, np.array(classes)) for layers, classes in sorted_by.items()]
        for layer in found.layers:
            roots = found.roots[layer.atoms_out].tolist()
            if all(root in why or root not in read for root in roots):
                found.kept[layer.name] = why.get(roots[0], "no layer that is followed reads them")


def _moved(held: Held, before: tuple[int, ...], after: tuple[int, ...]) -> Held | None:
    """Where channels are after a change of shape that leaves the order of the elements; None: it can't be told."""
    channels = before[held.axis]
    lead = _product(before[: held.axis])
    for axis in range(len(after)):
        if _product(after[:axis]) != lead:
            continue
        if after[axis] == channels:
            return Held(axis, held.atoms)
        inner = before[held.axis + 1 :]
        for end in range(1, len(inner) + 1):
            if min(inner[:end]) > 0 and after[axis] == channels * int(np.prod(inner[:end])):
                return Held(axis, np.repeat(held.atoms, int(np.prod(inner[:end]))))
    return None


def _product(extents: tuple[int, ...]) -> tuple[int, ...]:
    """What leading extents come to: open ones stay apart, ones do not count."""
    known = int(np.prod([each for each in extents if each >= 0], dtype=np.int64))
    return (known, sum(each < 0 for each in extents))
