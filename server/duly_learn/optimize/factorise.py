"""A student of another shape: large convolutions become three thinner ones each (optimize/ranks), fitted to what the
original gives over frames.

Unlike pruning it takes out combinations of channels instead of channels, of which far more can go for the same loss,
and all channels behind are still computed. The layers are made in the graph's order; each middle convolution is solved
for by least squares over what it really reads, against the numbers that the original's answer is made of, and the last
one of the three against that answer itself, so that an error of one is made good in the next.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from duly_learn.graphs.channels import follow
from duly_learn.graphs.constants import arrays_of, forget_unread, integer, set_array, with_biases, with_initializers
from duly_learn.graphs.followed import Layer
from duly_learn.graphs.part import Feeds, Part, part_behind
from duly_learn.graphs.work import work_of, work_of_pairs
from duly_learn.optimize.activations import PLACES_MAX, Reals, channels_first
from duly_learn.optimize.compensate import reconstruct
from duly_learn.optimize.distance import Probe
from duly_learn.optimize.ranks import Side, Splittable, choose_ranks, side_of

FRAMES_MAX = 300
"""The layers are fitted over so many frames at most: with 300 frames of a street YOLOv2-tiny's boxes agree by 0.93
before any training, with 150 by 0.92."""
CHANNELS_MIN = 256
"""Layers with fewer channels on either side stay: three layers have to be gone through in place of one, and so few
channels have but a few blocks of 16 to save. Smaller ones have not been measured."""
PLACES_PER_UNKNOWN = 16
"""So many times more places than unknowns are looked at, where the frames have them."""
_COVARIANCE_FRAMES = 100


class CannotFactorise(ValueError):
    """No layer can be split; the message says why."""


@dataclass(frozen=True, slots=True)
class Factorised:
    """A graph of thinner layers, and how it came about."""

    model: onnx.ModelProto
    ranks: Mapping[str, tuple[int, int]]
    """Of each layer that was split: the numbers that it is computed from, and those that its answer is made of."""
    work: tuple[int, int]
    """The multiplications of one frame before and now."""
    first_changed: str
    """What the first new layer gives."""


def factorise(
    model: onnx.ModelProto,
    frames: Sequence[Feeds],
    share: float,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> Factorised:
    """Splits convolutions until at most `share` of the multiplications are left.

    Args:
        frames: what runs of the graph take, one frame each.
        share: 0..1.
        check: called now and then; what it raises ends the work.

    Raises:
        CannotFactorise: there is no convolution that could be split, or that would be of use, or there are no frames.
        ValueError: ONNX Runtime cannot run a part of the graph.
    """
    if not frames:
        raise CannotFactorise("there are no frames to fit layers to")
    model = with_biases(with_initializers(model))
    channels = follow(model)
    pairs = dict(zip((each.name for each in channels.layers), work_of_pairs(model, channels), strict=True))
    layers = {each.name: each for each in channels.layers if _can_split(model, each)}
    if not layers:
        raise CannotFactorise(
            f"it has no convolution of more than one tap with at least {CHANNELS_MIN} channels on either side"
        )
    spread = frames[:: -(-len(frames) // _COVARIANCE_FRAMES)]
    sides = _sides(model, list(layers.values()), spread, seed)
    check()
    splittable = _splittable(model, layers, pairs, sides, frames, check)
    whole = work_of(model, channels)
    ranks = choose_ranks(splittable, whole - sum(each.work(None) for each in splittable.values()), share)
    if not ranks:
        raise CannotFactorise(f"no layer would be split for {share:.0%} of the work")
    thinner = _split(model, layers, ranks, sides)
    split = [each for each in channels.layers if each.name in ranks]
    # What comes before the first of them is the same in both graphs, and run once.
    tensors, original = part_behind(model, split[0].output)
    front = Part(model, tensors)
    spread = frames[:: -(-len(frames) // FRAMES_MAX)]
    inner = [front.run(feeds) for feeds in spread]
    _, behind = part_behind(thinner, _read(split[0]))
    for layer in split:
        _fit(original, behind, layer, sides[layer.name][1], ranks[layer.name][1], inner, seed, check)
    for name, value in arrays_of(behind).items():
        set_array(thinner, name, value)
    return Factorised(thinner, ranks, (whole, work_of(thinner, follow(thinner))), _read(split[0]))


def _can_split(model: onnx.ModelProto, layer: Layer) -> bool:
    node = model.graph.node[layer.node]
    shape = arrays_of(model)[layer.weight].shape
    several = node.op_type == "Conv" and integer(node, "group", 1) == 1 and int(np.prod(shape[2:])) > 1
    return several and min(shape[:2]) >= CHANNELS_MIN


def _sides(
    model: onnx.ModelProto, layers: Sequence[Layer], frames: Sequence[Feeds], seed: int
) -> dict[str, tuple[Side, Side]]:
    """Returns, for each layer, the combinations of what it reads and of what it gives."""
    arrays = arrays_of(model)
    tensors = {name: None for each in layers for name in (each.tensor, each.output)}
    part = Part(model, list(tensors))
    random = np.random.default_rng(seed)
    sums: dict[str, Reals] = {}
    squares: dict[str, Reals] = {}
    counts = dict.fromkeys(tensors, 0)
    for feeds in frames:
        for name, value in part.run(feeds).items():
            rows = channels_first(value, 1, value.shape[1])
            if len(rows) > PLACES_MAX:
                rows = rows[random.choice(len(rows), PLACES_MAX, replace=False)]
            sums[name] = sums.get(name, 0.0) + rows.sum(axis=0, dtype=np.float64)
            squares[name] = squares.get(name, 0.0) + np.asarray(rows.T @ rows, np.float64)
            counts[name] += len(rows)
    means = {name: sums[name] / counts[name] for name in tensors}
    covariances = {name: squares[name] / counts[name] - np.outer(means[name], means[name]) for name in tensors}
    found = {}
    for each in layers:
        weight = np.asarray(arrays[each.weight], np.float64)
        by_read = np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1)
        reads = side_of(means[each.tensor], covariances[each.tensor], by_read @ by_read.T)
        gives = side_of(means[each.output], covariances[each.output], np.eye(len(weight)))
        found[each.name] = reads, gives
    return found


def _splittable(
    model: onnx.ModelProto,
    layers: Mapping[str, Layer],
    pairs: Mapping[str, int],
    sides: Mapping[str, tuple[Side, Side]],
    frames: Sequence[Feeds],
    check: Callable[[], None],
) -> dict[str, Splittable]:
    """Finds out how much a layer's loss counts: with half of its ranks, it alone, the outputs are looked at."""
    arrays = arrays_of(model)
    probe = Probe(model, frames)
    found = {}
    for name, layer in layers.items():
        check()
        reads, gives = sides[name]
        shape = arrays[layer.weight].shape
        plain = Splittable(reads, gives, pairs[name] // int(np.prod(shape[2:])), int(np.prod(shape[2:])))
        halves = (shape[1] // 2, shape[0] // 2)
        weight = probe.suffers(_split(model, {name: layer}, {name: halves}, sides), plain.loss(halves))
        found[name] = Splittable(reads, gives, plain.places, plain.taps, weight)
    return found


def _read(layer: Layer) -> str:
    """The tensor of the numbers that a split layer is computed from."""
    return f"{layer.output}.read"


def _code(layer: Layer) -> str:
    """The tensor of the numbers that its answer is made of."""
    return f"{layer.output}.code"


def _split(
    model: onnx.ModelProto,
    layers: Mapping[str, Layer],
    ranks: Mapping[str, tuple[int, int]],
    sides: Mapping[str, tuple[Side, Side]],
) -> onnx.ModelProto:
    """Puts three layers in the place of each, with the weights that the combinations alone tell."""
    thinner = onnx.ModelProto()
    thinner.CopyFrom(model)
    arrays = arrays_of(model)
    nodes: list[onnx.NodeProto] = []
    at = {layers[name].node: name for name in ranks}
    for place, node in enumerate(model.graph.node):
        name = at.get(place)
        if name is None:
            nodes.append(node)
            continue
        layer, (a, b), (reads, gives) = layers[name], ranks[name], sides[name]
        weight = np.asarray(arrays[layer.weight], np.float64)
        encode, decode = gives.encode[:, :b], gives.decode[:b]
        ones = (1,) * (weight.ndim - 2)
        unread = weight.reshape(*weight.shape[:2], -1).sum(axis=2) @ reads.unexplained(a)
        _layer(thinner, _read(layer), reads.encode[:, :a].T.reshape(a, -1, *ones), np.zeros(a))
        coded = np.tensordot(encode, weight, axes=(0, 0))  # [b, channels that are read, ...]
        core = np.moveaxis(np.tensordot(coded, reads.decode[:a], axes=(1, 1)), -1, 1)
        _layer(thinner, _code(layer), core, (np.asarray(arrays[layer.bias], np.float64) + unread) @ encode)
        _layer(thinner, layer.output, decode.T.reshape(-1, b, *ones), gives.unexplained(b))
        middle = onnx.NodeProto()
        middle.CopyFrom(node)
        middle.name = f"{node.name or layer.output}.code"
        del middle.input[:], middle.output[:]
        middle.input.extend([_read(layer), f"{_code(layer)}.kernel", f"{_code(layer)}.bias"])
        middle.output.append(_code(layer))
        nodes += [_point(layer.tensor, _read(layer)), middle, _point(_code(layer), layer.output)]
    del thinner.graph.node[:]
    thinner.graph.node.extend(nodes)
    forget_unread(thinner)
    return thinner


def _layer(model: onnx.ModelProto, given: str, kernel: Reals, bias: Reals) -> None:
    set_array(model, f"{given}.kernel", kernel.astype(np.float32))
    set_array(model, f"{given}.bias", bias.astype(np.float32))


def _point(read: str, given: str) -> onnx.NodeProto:
    """A convolution of one tap."""
    return helper.make_node("Conv", [read, f"{given}.kernel", f"{given}.bias"], [given], name=f"{given}.point")


def _fit(
    original: onnx.ModelProto,
    thinner: onnx.ModelProto,
    layer: Layer,
    gives: Side,
    rank: int,
    frames: Sequence[Feeds],
    seed: int,
    check: Callable[[], None],
) -> None:
    """Solves for the middle layer, then for the last of the three; and makes what each number is multiplied by before
    and behind alike, which changes no answer and is what a gradient's steps want."""
    with_code = onnx.ModelProto()
    with_code.CopyFrom(original)
    encode = gives.encode[:, :rank].T
    dims = arrays_of(thinner)[f"{layer.output}.kernel"].ndim - 2
    _layer(with_code, _code(layer), encode.reshape(*encode.shape, *(1,) * dims), np.zeros(rank))
    with_code.graph.node.append(_point(layer.output, _code(layer)))
    for given in (_code(layer), layer.output):
        place, node = next((p, n) for p, n in enumerate(thinner.graph.node) if given in n.output)
        width, count = (arrays_of(thinner)[node.input[1]].shape[axis] for axis in (1, 0))
        made = Layer(
            place, given, node.input[0], given, node.input[1], node.input[2], 1, 0, np.arange(width), np.arange(count)
        )
        reconstruct(
            Part(with_code, [given]),
            thinner,
            made,
            np.ones(count, bool),
            frames,
            seed,
            check,
            PLACES_PER_UNKNOWN,
        )
    _balance(thinner, _read(layer), _code(layer))
    _balance(thinner, _code(layer), layer.output)


def _balance(model: onnx.ModelProto, first: str, second: str) -> None:
    """Moves a factor for each number from the layer that reads it to the one that gives it, so that the weights of both
    are as large."""
    arrays = arrays_of(model)
    names = f"{first}.kernel", f"{first}.bias", f"{second}.kernel"
    kernel, bias, behind = (np.asarray(arrays[name], np.float64) for name in names)
    before_size = np.sqrt((kernel.reshape(len(kernel), -1) ** 2).mean(axis=1))
    behind_size = np.sqrt((np.moveaxis(behind, 1, 0).reshape(len(kernel), -1) ** 2).mean(axis=1))
    factor = np.sqrt(np.maximum(behind_size, 1e-12) / np.maximum(before_size, 1e-12))
    _layer(model, first, kernel * factor.reshape(-1, *(1,) * (kernel.ndim - 1)), bias * factor)
    divided = behind / factor.reshape(1, -1, *(1,) * (behind.ndim - 2))
    set_array(model, f"{second}.kernel", divided.astype(np.float32))
