"""What layers read is smaller after pruning: their weights are made anew so that they give nearly what they gave.

Two ways, one after the other. `fold_into_kept` spreads what a lost channel meant over the kept ones that it can be told
from, by means and covariances alone. `reconstruct` then solves for the weights of one layer at a time by least squares
over what the pruned graph really reads, against what the original layer gave: He, Zhang and Sun 2017, "Channel Pruning
for Accelerating Very Deep Neural Networks", section 3.1, in the
form for whole models, in which an error of one layer is made good in the next.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from duly_learn.graphs.constants import arrays_of, integers, set_array
from duly_learn.graphs.followed import Layer
from duly_learn.graphs.pads import pads_of
from duly_learn.graphs.part import Feeds, Part
from duly_learn.optimize.activations import Moments, Reals

FEATURES_MAX = 6144
"""A layer whose weights for one output are more than these is left as `fold_into_kept` made it: the normal equations
of more would take gigabytes and minutes."""
SAMPLES_PER_FEATURE = 4
"""So many times more places than unknowns are looked at, where the frames have them."""
RIDGE = 3e-3
"""The share of the mean variance by which the new weights are drawn to those before. It is what settles the weights
where there are fewer places than unknowns."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a layer was made anew."""

    layer: str
    features: int
    """Unknowns for each output."""
    samples: int
    """Places that were looked at. Fewer than `features`: the ridge alone settles the rest."""
    error_before: float
    """The share of the variance of what the original layer gave that the weights before did not give."""
    error_after: float


def fold_into_kept(model: onnx.ModelProto, layer: Layer, moments: Moments, kept: npt.NDArray[np.bool_]) -> None:
    """Changes the layer's weights in the graph that is not cut yet: those of lost channels become nothing, and the
    kept ones take over what a linear map can give of them."""
    weight = np.asarray(arrays_of(model)[layer.weight], np.float64)
    lost = ~kept
    covariance = moments.covariance
    ridge = 1e-4 * float(np.diagonal(covariance)[kept].mean()) if kept.any() else 0.0
    inner = covariance[np.ix_(kept, kept)] + max(ridge, 1e-12) * np.eye(int(kept.sum()))
    told = np.linalg.solve(inner, covariance[np.ix_(kept, lost)])  # [kept, lost]
    moved = np.moveaxis(weight, layer.axis_in, 0)
    wide = moved.reshape(len(kept), -1, *moved.shape[1:])  # [channels, elements of each, ...]
    shift = moments.mean[lost] - moments.mean[kept] @ told
    _add_to_bias(
        model, layer, np.tensordot(shift, wide[lost], axes=1), layer.axis_out - (layer.axis_in < layer.axis_out)
    )
    wide[kept] += np.tensordot(told, wide[lost], axes=1)
    wide[lost] = 0
    back = np.moveaxis(wide.reshape(moved.shape), 0, layer.axis_in)
    set_array(model, layer.weight, back.astype(np.float32))


def _add_to_bias(model: onnx.ModelProto, layer: Layer, shift: Reals, axis_out: int) -> None:
    """`shift`: [elements, ...], without the axis that was read; all but the outputs is summed."""
    per_output = np.moveaxis(shift, axis_out + 1, 0).reshape(shift.shape[axis_out + 1], -1).sum(axis=1)
    set_bias(model, layer, bias_of(model, layer) + per_output)


def bias_of(model: onnx.ModelProto, layer: Layer) -> Reals:
    """Returns the layer's bias for each output; zeros where it has none."""
    arrays = arrays_of(model)
    outputs = arrays[layer.weight].shape[layer.axis_out]
    return (
        np.broadcast_to(np.asarray(arrays[layer.bias], np.float64).ravel(), outputs)
        if layer.bias
        else np.zeros(outputs)
    )


def set_bias(model: onnx.ModelProto, layer: Layer, bias: Reals) -> None:
    """Gives a layer another bias; one that has none, or one number for all outputs, keeps what it has."""
    if has_bias(model, layer):
        old = arrays_of(model)[layer.bias]
        set_array(model, layer.bias, bias.astype(old.dtype).reshape(old.shape))


def has_bias(model: onnx.ModelProto, layer: Layer) -> bool:
    """Whether a layer has a bias for each output."""
    arrays = arrays_of(model)
    return bool(layer.bias) and arrays[layer.bias].size == arrays[layer.weight].shape[layer.axis_out]


def reconstruct(
    original: Part,
    model: onnx.ModelProto,
    layer: Layer,
    outputs: npt.NDArray[np.bool_],
    frames: Sequence[Feeds],
    seed: int,
    check: Callable[[], None],
    samples_per_feature: int = SAMPLES_PER_FEATURE,
) -> Fit | None:
    """Solves for the layer's weights in the cut graph `model`, in place; None: it is too large for that.

    Args:
        original: the graph before pruning, up to what the layer gives.
        layer: its names; its arrays are those of `model`.
        outputs: which of the original's outputs are left.
        frames: at least one.
        check: called between frames; what it raises ends the work.
        samples_per_feature: so many times more places than unknowns are looked at, where the frames have them.
    """
    arrays = arrays_of(model)
    node = model.graph.node[layer.node]
    weight = np.asarray(arrays[layer.weight], np.float32)
    matrix = _as_matrix(weight, layer)  # [features, outputs]
    features = len(matrix)
    if features > FEATURES_MAX:
        return None
    part = Part(model, [layer.tensor])
    random = np.random.default_rng(seed)
    each_frame = -(-features * samples_per_feature // len(frames))
    free_bias = has_bias(model, layer)
    bias = bias_of(model, layer).astype(np.float32)
    gram = np.zeros((features, features), np.float64)
    cross = np.zeros((features, matrix.shape[1]), np.float64)
    sums, given, square, before, samples = np.zeros(features), np.zeros(matrix.shape[1]), 0.0, 0.0, 0
    for feeds in frames:
        check()
        read = part.run(feeds)[layer.tensor]
        target = original.run(feeds)[layer.output]
        rows, wanted = _rows(
            node, np.asarray(read, np.float32), np.asarray(target, np.float32), weight, each_frame, random
        )
        wanted = wanted[:, outputs]
        gram += rows.T @ rows
        cross += rows.T @ wanted
        sums += rows.sum(axis=0)
        given += wanted.sum(axis=0)
        square += float((wanted.astype(np.float64) ** 2).sum())
        before += float(((rows @ matrix + bias - wanted) ** 2).sum())
        samples += len(rows)
    means, target_means = (sums / samples, given / samples) if free_bias else (0 * sums, 0 * given)
    gram -= samples * np.outer(means, means)
    cross -= samples * np.outer(means, target_means)
    if not free_bias:
        cross -= sums[:, None] * bias
    variance = max(square - samples * float((target_means**2).sum()), 1e-30)
    ridge = RIDGE * max(float(np.trace(gram)) / features, 1e-30)
    gram[np.diag_indices(features)] += ridge
    solved = np.linalg.solve(gram, cross + ridge * matrix)
    gram[np.diag_indices(features)] -= ridge
    left = variance - 2 * float((solved * cross).sum()) + float((solved * (gram @ solved)).sum())
    if free_bias:
        set_bias(model, layer, target_means - means @ solved)
    set_array(model, layer.weight, _from_matrix(solved.astype(np.float32), weight, layer))
    return Fit(layer.name, features, samples, before / variance, max(0.0, left) / variance)


def _as_matrix(weight: npt.NDArray[np.float32], layer: Layer) -> npt.NDArray[np.float32]:
    """[features, outputs], the features in the order of the weight's own axes."""
    return np.moveaxis(weight, layer.axis_out, -1).reshape(-1, weight.shape[layer.axis_out])


def _from_matrix(
    matrix: npt.NDArray[np.float32], like: npt.NDArray[np.float32], layer: Layer
) -> npt.NDArray[np.float32]:
    moved = np.moveaxis(like, layer.axis_out, -1)
    return np.moveaxis(matrix.reshape(moved.shape), -1, layer.axis_out)


def _rows(
    node: onnx.NodeProto,
    read: npt.NDArray[np.float32],
    given: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    count: int,
    random: np.random.Generator,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns what a layer reads and gives at `count` places of one frame: [places, features] and [places, outputs]."""
    if node.op_type != "Conv":
        rows, wanted = read.reshape(-1, read.shape[-1]), given.reshape(-1, given.shape[-1])
        chosen = random.choice(len(rows), min(count, len(rows)), replace=False)
        return rows[chosen], wanted[chosen]
    kernel = weight.shape[2:]
    dims = len(kernel)
    strides = integers(node, "strides", (1,) * dims)
    dilations = integers(node, "dilations", (1,) * dims)
    pads = pads_of(node, read.shape[2:], kernel, strides, dilations)
    padded = np.pad(read, [(0, 0), (0, 0), *zip(pads[:dims], pads[dims:], strict=True)])
    places = given.shape[2:]
    total = given.shape[0] * int(np.prod(places))
    chosen = random.choice(total, min(count, total), replace=False)
    frame, *position = np.unravel_index(chosen, (given.shape[0], *places))
    offsets = np.indices(kernel).reshape(dims, -1)
    index = [position[axis][:, None] * strides[axis] + offsets[axis][None, :] * dilations[axis] for axis in range(dims)]
    taken = padded[(frame[:, None], slice(None), *index)]  # [places, taps, channels]
    wanted = np.moveaxis(given, 1, -1)[(frame, *position)]
    return np.ascontiguousarray(taken.transpose(0, 2, 1)).reshape(len(chosen), -1), wanted
