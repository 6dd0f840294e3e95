"""Trains a graph to give its teacher's answers: seeded, and bounded in steps. Where the time is not enough for them, it
decides once how many it is enough for, and says so: then another machine gives other weights for the same seed.

The nodes before the first one that is trained are run once for each frame by ONNX Runtime, and what they give is kept;
so a long frozen front costs nothing while the rest is trained by jax (optimize/interpreter). The optimiser is Adam
(Kingma and Ba 2015) with a rate that falls along a cosine over all steps. What is judged and given back is the running
average of the weights (Polyak and Juditsky 1992), which the last batches sway less.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx

from duly_learn.graphs.constants import Array, set_array, with_initializers
from duly_learn.graphs.part import Feeds, Part
from duly_learn.optimize.interpreter import Interpreter, Values
from duly_learn.optimize.losses import Loss

Arrays = dict[str, Array]

KEPT_BYTES_MAX = 1 << 30
"""What is kept of all frames has at most so many bytes; where they have more, fewer frames are trained on."""
_LOSSES_EVERY = 10
"""Every so many steps the loss is looked at, which is also when a NaN is found and the time is checked."""
_TIMED = 30
"""After so many steps it is decided whether the time is enough, by those since the first _LOSSES_EVERY, which are
compiled and slow."""
_HASTE = 0.9
"""Of the time that is left then, this share is planned for, as machines have other work, too."""
_WARM_SHARE = 0.05
"""The rate rises over this share of the steps."""
_UNSEEN_EACH = 8
"""Every eighth frame is not trained on: the weights that are best on these are kept."""
_UNSEEN_MAX = 64
_AVERAGED = 0.99
"""The share of the running average that a step leaves; less at the beginning, so that it soon forgets the start."""
_LOOKS = 10
"""So often in all the weights are tried on frames that were not trained on."""


class TrainingFailed(RuntimeError):
    """Training went wrong; the message says at which step, and why."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long training may go on."""

    steps: int
    seconds: float
    batch: int = 4
    rate: float = 5e-4


@dataclass(frozen=True, slots=True)
class Trained:
    model: onnx.ModelProto
    losses: Sequence[float]
    """The mean loss since the last look, in the order of training; the first is of the first steps."""
    steps: int
    """Fewer than asked for: the time was up."""
    frames: int
    cut_short: bool
    """There were more frames, but what is kept of them would have been too large."""
    trained: Sequence[str]
    """The initializers that were trained."""
    unseen: tuple[float, float]
    """The loss on frames that were not trained on, before and after; where all frames were needed, on those."""


def train(
    model: onnx.ModelProto,
    examples: Iterable[tuple[Feeds, Mapping[str, Array]]],
    loss: Loss,
    bounds: Bounds,
    seed: int,
    first: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Trains the weights of layers and normalisations in a copy of `model`.

    Args:
        examples: what runs of the graph take, one frame each, with a batch of 1, and the teacher's graph outputs
            for it. They are read once.
        first: the node that gives this tensor, and all nodes behind, are trained; empty: all nodes.

    Raises:
        CannotTrain: a node that is to be trained, or through which is trained, has no operator.
        TrainingFailed: the loss was no number any more, or there are no frames.
    """
    model = with_initializers(model)
    nodes = _nodes_from(model, first)
    interpreter = Interpreter(model, nodes)
    names = trainable(model, nodes, interpreter)
    if not names:
        raise TrainingFailed("there is no weight to train")
    kept, answers, cut_short = _keep(model, nodes, examples)
    count = len(next(iter(answers.values()), ()))
    if not count:
        raise TrainingFailed("there are no frames to train on")
    weights = {name: jnp.asarray(interpreter.weights[name]) for name in names}
    fixed = {name: jnp.asarray(value) for name, value in interpreter.weights.items() if name not in weights}
    step, loss_on = _step(interpreter, fixed, loss, bounds)
    unseen = np.arange(count)[_UNSEEN_EACH - 1 :: _UNSEEN_EACH][:_UNSEEN_MAX]
    seen = np.setdiff1d(np.arange(count), unseen)
    judges = unseen if len(unseen) else seen
    slopes = (jax.tree.map(jnp.zeros_like, weights), jax.tree.map(jnp.zeros_like, weights))
    random = np.random.default_rng(seed)
    batch = min(bounds.batch, len(seen))

    def judged(weights: Values) -> float:
        parts = np.array_split(judges, -(-len(judges) // batch))
        each = [
            float(loss_on(weights, {n: v[part] for n, v in kept.items()}, {n: v[part] for n, v in answers.items()}))
            for part in parts
        ]
        return float(np.average(each, weights=[len(part) for part in parts]))

    before = judged(weights)
    if not np.isfinite(before):
        raise TrainingFailed(
            f"the loss is {before} before the first step: the frames or the teacher's answers hold what is no number"
        )
    best, best_weights, next_look, average = before, weights, bounds.steps // _LOOKS, weights
    losses: list[float] = []
    since: list[jax.Array] = []
    order: list[int] = []
    begin, compiled, done, total = clock(), 0.0, 0, bounds.steps
    while done < total:
        if len(order) < batch:
            order = random.permutation(seen).tolist()
        chosen, order = np.array(order[:batch]), order[batch:]
        weights, slopes, average, value = step(
            weights,
            slopes,
            average,
            {n: v[chosen] for n, v in kept.items()},
            {n: v[chosen] for n, v in answers.items()},
            done,
            total,
        )
        since.append(value)
        done += 1
        if done % _LOSSES_EVERY == 0 or done == total:
            losses.append(float(np.mean([float(each) for each in since])))
            since = []
            if not np.isfinite(losses[-1]):
                raise TrainingFailed(
                    f"the loss is {losses[-1]} at step {done} of {bounds.steps}: the frames or the teacher's answers "
                    f"hold what is no number, or the rate of {bounds.rate:g} is too high"
                )
            spent = clock() - begin
            if done == _LOSSES_EVERY:
                compiled = spent
            elif done == _TIMED:
                a_step = (spent - compiled) / (_TIMED - _LOSSES_EVERY)
                if spent + a_step * (total - done) > bounds.seconds:
                    total = done + max(0, int(_HASTE * (bounds.seconds - spent) / max(a_step, 1e-9)))
            if spent >= bounds.seconds:
                total = done
            if done >= next_look or done >= total:
                next_look = done + total // _LOOKS
                now = judged(average)
                if now < best:
                    best, best_weights = now, average
    trained = onnx.ModelProto()
    trained.CopyFrom(model)
    for name, value in best_weights.items():
        set_array(trained, name, np.asarray(value))
    return Trained(trained, losses, done, count, cut_short, names, (before, best))


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


def _keep(
    model: onnx.ModelProto,
    nodes: Sequence[int],
    examples: Iterable[tuple[Feeds, Mapping[str, Array]]],
) -> tuple[Arrays, Arrays, bool]:
    """Returns what the nodes read of those before them and the teacher's answers, both as arrays [frames, ...], for as
    many frames as fit, and whether there were more."""
    constants = {each.name for each in model.graph.initializer}
    outputs = [each.name for each in model.graph.output]
    given = {name for place in nodes for name in model.graph.node[place].output}
    read = {name for place in nodes for name in model.graph.node[place].input if name} - constants - given
    # An output that no trained node gives would be missing; it is what the frozen part gives.
    names = sorted(read | (set(outputs) - given))
    inner = [name for name in names if name not in {each.name for each in model.graph.input}]
    part = Part(model, inner) if inner else None
    kept: dict[str, list[Array]] = {name: [] for name in names}
    answers: dict[str, list[Array]] = {name: [] for name in outputs}
    size = 0
    cut_short = False
    for feeds, answer in examples:
        values = {**feeds, **(part.run(feeds) if part else {})}
        size += sum(np.asarray(values[name]).nbytes for name in names) + sum(answer[name].nbytes for name in outputs)
        if size > KEPT_BYTES_MAX:
            cut_short = True
            break
        for name in names:
            kept[name].append(np.asarray(values[name]))
        for name in outputs:
            answers[name].append(np.asarray(answer[name]))
    if not answers[outputs[0]]:
        return {}, {}, cut_short
    return (
        {name: np.stack(value) for name, value in kept.items()},
        {name: np.stack(value) for name, value in answers.items()},
        cut_short,
    )


def _step(
    interpreter: Interpreter, fixed: Mapping[str, jax.Array], loss: Loss, bounds: Bounds
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns the compiled functions of one step of Adam, and of the mean loss over frames."""

    def of_batch(weights: Values, inputs: Values, wanted: Values) -> jax.Array:
        def of_frame(feeds: Values, answer: Values) -> jax.Array:
            return loss(interpreter({**fixed, **weights}, feeds), answer)

        return jnp.mean(jax.vmap(of_frame)(inputs, wanted))

    @jax.jit
    def step(
        weights: Values,
        slopes: tuple[Values, Values],
        average: Values,
        inputs: Values,
        wanted: Values,
        done: int,
        total: int,
    ) -> Any:
        value, gradient = jax.value_and_grad(of_batch)(weights, inputs, wanted)
        time_ = done + 1.0
        warm = jnp.maximum(1.0, _WARM_SHARE * total)
        rate = bounds.rate * jnp.minimum(time_ / warm, 0.5 * (1 + jnp.cos(jnp.pi * done / total)))
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, slopes[0], gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, slopes[1], gradient)
        changed = jax.tree.map(
            lambda w, m, v: w - rate * (m / (1 - 0.9**time_)) / (jnp.sqrt(v / (1 - 0.999**time_)) + 1e-8),
            weights,
            first,
            second,
        )
        old = jnp.minimum(_AVERAGED, time_ / (time_ + 10))
        averaged = jax.tree.map(lambda a, w: old * a + (1 - old) * w, average, changed)
        return changed, (first, second), averaged, value

    return step, jax.jit(of_batch)
