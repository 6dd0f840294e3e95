"""JAX, Flax through jax2onnx."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax2onnx import to_onnx
from keeping import Kept

rng = np.random.default_rng(12)
kept = Kept("jax", "jax2onnx", "jax", "flax")


def keep(name, how, call, shapes, frames, toml="", *, batched=True, **options):
    nchw = "inputs_as_nchw" in options
    proto = to_onnx(call, shapes, **options)
    takes, gives = [each.name for each in proto.graph.input], [each.name for each in proto.graph.output]
    answers = []
    for frame in frames:
        given = call(*[value[None] if batched else value for value in frame])
        given = given if isinstance(given, tuple) else (given,)
        taken = [np.asarray(value)[0] if batched else np.asarray(value) for value in given]
        if nchw:
            frame = [value.transpose(2, 0, 1) for value in frame]
        answers.append((dict(zip(takes, frame, strict=True)), dict(zip(gives, taken, strict=True))))
    kept.keep(name, how, proto, answers, toml)


def vectors(count, *shape):
    return [(rng.normal(size=shape).astype("f4"),) for _ in range(count)]


class Network(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, kernel_size=(3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).mean(axis=(1, 2)))


network = Network(nnx.Rngs(12))
weights = jnp.asarray(rng.normal(size=(4, 3)).astype("f4"))
keep("mlp", 'a function, `[("B", 4)]`', lambda x: jax.nn.softmax(jnp.tanh(x) @ weights), [("B", 4)], vectors(5, 4))
keep("flax_conv", 'Flax (NHWC), `[("B", 12, 12, 3)]`', network, [("B", 12, 12, 3)], vectors(4, 12, 12, 3))
keep("batch_of_one", "Flax, `[(1, 12, 12, 3)]`", network, [(1, 12, 12, 3)], vectors(4, 12, 12, 3))
keep(
    "flax_nchw",
    "Flax, `inputs_as_nchw`",
    network,
    [("B", 12, 12, 3)],
    vectors(4, 12, 12, 3),
    inputs_as_nchw=[0],
)
keep(
    "unbatched",
    "a function of one vector [4], no batch dimension",
    lambda x: x @ weights,
    [(4,)],
    vectors(5, 4),
    "batched = false\n",
    batched=False,
)
keep(
    "two_outputs",
    "a function of two inputs of the same shape to two outputs",
    lambda a, b: (a + b, jnp.sum(a * b, axis=1)),
    [("B", 4), ("B", 4)],
    [(rng.normal(size=4).astype("f4"), rng.normal(size=4).astype("f4")) for _ in range(5)],
)
