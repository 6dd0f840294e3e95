"""Trains a graph to give its teacher's answers: seeded, and bounded in steps and in time.

The nodes before the first one that is trained are run once for each frame by ONNX Runtime, and what they give is kept;
so a long frozen front costs nothing while the rest is trained by jax (optimize/interpreter). The optimiser is Adam
(Kingma and Ba 2015) with a rate that falls along a cosine.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import onnx

from duly_learn.graphs.constants import set_array, with_initializers
from duly_learn.graphs.part import Feeds, Part
from duly_learn.optimize.interpreter import Interpreter
from duly_learn.optimize.losses import Loss

Arrays = dict[str, np.ndarray]  # type: ignore[type-arg]

KEPT_BYTES_MAX = 1 << 30
"""What is kept of all frames has at most so many bytes; where they have more, fewer frames are trained on."""
_LOSSES_EVERY = 10
"""Every so many steps the loss is looked at, which is also when a NaN is found and the time is checked."""
_WARM_SHARE = 0.05
"""The rate rises over this share of the steps."""


class TrainingFailed(RuntimeError):
    """Training went wrong; the message says at which step, and why."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long training may go on."""

    steps: int
    seconds: float
    batch: int = 8
    rate: float = 1e-3


@dataclass(frozen=True, slots=True)
class Trained:
    model: onnx.ModelProto
    losses: Sequence[float]
    """The mean loss since the last look, in the order of training; the first is of the first steps."""
    steps: int
    """Fewer than asked for: the time was up."""
    frames: int
    """Fewer than were given: what is kept of them would have been too large."""
    trained: Sequence[str]
    """The initializers that were trained."""


def train(
    model: onnx.ModelProto,
    frames: Sequence[Feeds],
    answers: Sequence[Mapping[str, np.ndarray]],  # type: ignore[type-arg]
    loss: Loss,
    bounds: Bounds,
    seed: int,
    first: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Trains the weights of layers and normalisations in a copy of `model`.

    Args:
        frames: what runs of the graph take, one frame each, with a batch of 1.
        answers: the teacher's graph outputs for them.
        first: the node that gives this tensor, and all nodes behind, are trained; empty: all nodes.

    Raises:
        CannotTrain: a node that is to be trained, or through which is trained, has no operator.
        TrainingFailed: the loss was no number any more, or there are no frames.
    """
    if not frames:
        raise TrainingFailed("there are no frames to train on")
    model = with_initializers(model)
    nodes = _nodes_from(model, first)
    interpreter = Interpreter(model, nodes)
    names = trainable(model, nodes, interpreter)
    if not names:
        raise TrainingFailed("there is no weight to train")
    kept = _keep(model, nodes, frames)
    count = len(next(iter(kept.values())))
    wanted = {name: jnp.asarray(np.stack([each[name] for each in answers[:count]])) for name in interpreter.outputs}
    weights = {name: jnp.asarray(interpreter.weights[name]) for name in names}
    fixed = {name: jnp.asarray(value) for name, value in interpreter.weights.items() if name not in weights}
    step = _step(interpreter, fixed, loss, bounds)
    inputs = {name: jnp.asarray(value) for name, value in kept.items()}
    slopes = (jax.tree.map(jnp.zeros_like, weights), jax.tree.map(jnp.zeros_like, weights))
    random = np.random.default_rng(seed)
    batch = min(bounds.batch, count)
    losses: list[float] = []
    since: list[jax.Array] = []
    order: list[int] = []
    begin, done = clock(), 0
    while done < bounds.steps:
        if len(order) < batch:
            order = random.permutation(count).tolist()
        chosen, order = np.array(order[:batch]), order[batch:]
        weights, slopes, value = step(
            weights, slopes, {n: v[chosen] for n, v in inputs.items()}, {n: v[chosen] for n, v in wanted.items()}, done
        )
        since.append(value)
        done += 1
        if done % _LOSSES_EVERY == 0 or done == bounds.steps:
            losses.append(float(np.mean([float(each) for each in since])))
            since = []
            if not np.isfinite(losses[-1]):
                raise TrainingFailed(
                    f"the loss is {losses[-1]} at step {done} of {bounds.steps}: the frames or the teacher's answers hold "
                    f"what is no number, or the rate of {bounds.rate:g} is too high"
                )
            if clock() - begin > bounds.seconds:
                break
    trained = onnx.ModelProto()
    trained.CopyFrom(model)
    for name, value in weights.items():
        set_array(trained, name, np.asarray(value))
    return Trained(trained, losses, done, count, names)


def _nodes_from(model: onnx.ModelProto, first: str) -> list[int]:
    """Returns the places of the nodes that follow from the tensor `first`, the one that gives it included."""
    if not first:
        return list(range(len(model.graph.node)))
    changed: set[str] = set()
    found = []
    for place, node in enumerate(model.graph.node):
        if first in node.output or changed.intersection(node.input):
            found.append(place)
            changed.update(node.output)
    return found


def trainable(model: onnx.ModelProto, nodes: Sequence[int], interpreter: Interpreter) -> list[str]:
    """Returns the names of weights and biases of layers, and of scales and biases of normalisations. What is only
    counted or measured, such as the mean of a normalisation, stays."""
    places = {"Conv": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1), "BatchNormalization": (1, 2), "PRelu": (1,)}
    found: dict[str, None] = {}
    for place in nodes:
        node = model.graph.node[place]
        for at in places.get(node.op_type, ()):
            if at < len(node.input) and node.input[at] in interpreter.weights:
                found[node.input[at]] = None
    return list(found)


def _keep(model: onnx.ModelProto, nodes: Sequence[int], frames: Sequence[Feeds]) -> Arrays:
    """Returns what the nodes read of those before them, for as many frames as fit: arrays [frames, ...]."""
    constants = {each.name for each in model.graph.initializer}
    given = {name for place in nodes for name in model.graph.node[place].output}
    read = sorted({n for place in nodes for n in model.graph.node[place].input if n} - constants - given)
    # An output that no trained node gives would be missing; it is what the frozen part gives.
    direct = [each.name for each in model.graph.output if each.name not in given and each.name not in read]
    names = read + direct
    inputs = {each.name for each in model.graph.input}
    inner = [name for name in names if name not in inputs]
    part = Part(model, inner) if inner else None
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}  # type: ignore[type-arg]
    size = 0
    for feeds in frames:
        values = {**feeds, **(part.run(feeds) if part else {})}
        size += sum(np.asarray(values[name]).nbytes for name in names)
        if size > KEPT_BYTES_MAX and found[names[0]]:
            break
        for name in names:
            found[name].append(np.asarray(values[name]))
    return {name: np.stack(value) for name, value in found.items()}


def _step(interpreter: Interpreter, fixed: Mapping[str, jax.Array], loss: Loss, bounds: Bounds) -> Callable[..., tuple]:  # type: ignore[type-arg]
    """Returns the compiled function of one step of Adam."""

    def of_batch(weights: Mapping[str, jax.Array], inputs: Mapping[str, jax.Array], wanted: Mapping[str, jax.Array]) -> jax.Array:
        def of_frame(feeds: Mapping[str, jax.Array], answer: Mapping[str, jax.Array]) -> jax.Array:
            return loss(interpreter({**fixed, **weights}, feeds), answer)

        return jnp.mean(jax.vmap(of_frame)(inputs, wanted))

    warm = max(1.0, _WARM_SHARE * bounds.steps)

    @jax.jit
    def step(weights, slopes, inputs, wanted, done):  # type: ignore[no-untyped-def]
        value, gradient = jax.value_and_grad(of_batch)(weights, inputs, wanted)
        time_ = done + 1.0
        rate = bounds.rate * jnp.minimum(time_ / warm, 0.5 * (1 + jnp.cos(jnp.pi * done / bounds.steps)))
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, slopes[0], gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, slopes[1], gradient)
        changed = jax.tree.map(
            lambda w, m, v: w - rate * (m / (1 - 0.9**time_)) / (jnp.sqrt(v / (1 - 0.999**time_)) + 1e-8),
            weights,
            first,
            second,
        )
        return changed, (first, second), value

    return step
