"""How far a student's answers are from its teacher's, frame by frame: what training makes smaller."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

Answers = Mapping[str, jax.Array]
Loss = Callable[[Answers, Answers], jax.Array]
"""(the student's outputs, the teacher's outputs) of the graph → a number"""


def squared(variances: Mapping[str, float]) -> Loss:
    """The squared distance as a share of each output's own variance, which `variances` has by name."""

    def loss(got: Answers, wanted: Answers) -> jax.Array:
        parts = [jnp.mean((got[name] - wanted[name]) ** 2) / max(variances[name], 1e-12) for name in variances]
        return jnp.sum(jnp.stack(parts))

    return loss


def of_logits(name: str, temperature: float = 2.0) -> Loss:
    """The divergence of the classes' probabilities that two lists of logits mean: Hinton, Vinyals and Dean 2015,
    "Distilling the Knowledge in a Neural Network", section 2."""

    def loss(got: Answers, wanted: Answers) -> jax.Array:
        taught = jax.nn.log_softmax(wanted[name] / temperature)
        learnt = jax.nn.log_softmax(got[name] / temperature)
        return temperature**2 * jnp.mean(jnp.sum(jnp.exp(taught) * (taught - learnt), axis=-1))

    return loss


def of_probabilities(name: str) -> Loss:
    """The same divergence where a graph gives the probabilities themselves."""

    def loss(got: Answers, wanted: Answers) -> jax.Array:
        taught, learnt = jnp.clip(wanted[name], 1e-7, 1.0), jnp.clip(got[name], 1e-7, 1.0)
        return jnp.mean(jnp.sum(taught * (jnp.log(taught) - jnp.log(learnt)), axis=-1))

    return loss


def of_yolo_v2(name: str, anchors: int) -> Loss:
    """What YOLOv2's region layer makes of a grid [1, anchors * (5 + classes), H, W]: the divergence of objectness, of
    the classes, and the squared distance of boxes, the last two by how much of an object the teacher sees in a cell."""

    def loss(got: Answers, wanted: Answers) -> jax.Array:
        shape = wanted[name].shape
        student = got[name].reshape(anchors, -1, *shape[2:])
        teacher = wanted[name].reshape(anchors, -1, *shape[2:])
        present = jax.nn.sigmoid(teacher[:, 4])
        objectness = _bernoulli(teacher[:, 4], student[:, 4])
        taught, learnt = jax.nn.log_softmax(teacher[:, 5:], axis=1), jax.nn.log_softmax(student[:, 5:], axis=1)
        classes = jnp.sum(jnp.exp(taught) * (taught - learnt), axis=1)
        centres = jax.nn.sigmoid(teacher[:, :2]) - jax.nn.sigmoid(student[:, :2])
        boxes = jnp.sum(centres**2, axis=1) + jnp.sum((teacher[:, 2:4] - student[:, 2:4]) ** 2, axis=1)
        return jnp.sum(objectness + present * (classes + boxes))

    return loss


def _bernoulli(taught: jax.Array, learnt: jax.Array) -> jax.Array:
    """The divergence of two yes-or-no answers by their logits."""
    p = jax.nn.sigmoid(taught)
    return p * (jax.nn.log_sigmoid(taught) - jax.nn.log_sigmoid(learnt)) + (1 - p) * (
        jax.nn.log_sigmoid(-taught) - jax.nn.log_sigmoid(-learnt)
    )
