"""SPSA in an L-infinity ball: the gradient of the loss is guessed from its differences along random directions, and
followed by Adam (Uesato, O'Donoghue, van den Oord & Kohli, Adversarial Risk and the Dangers of Evaluating Against Weak
Attacks, ICML 2018, algorithm 1; Spall, IEEE Trans. Autom. Control 37, 1992).

The paper's perturbation and step of 0.01 are for an epsilon of about 0.03: here both are a third of epsilon.
"""

from collections.abc import Sequence

import numpy as np

from duly_learn.frames.frame import Array
from duly_learn.robustness.attacks.ball import Ball

DIRECTIONS = 16
"""So many random directions are looked along for one step, with two queries each; the paper has 128 and more, for
budgets of a hundred thousand queries."""
ASKS = 2 * DIRECTIONS + 1
"""Queries of one step: along each direction both ways, and of the input that the step before has led to."""
PART_OF_EPSILON = 1 / 3
MEMORY, MEMORY_OF_SQUARES, LEAST = 0.9, 0.999, 1e-12
"""Adam's."""


class Spsa:
    """An attack on one input of one frame, with ASKS queries for each step."""

    def __init__(self, ball: Ball, seed: Sequence[int]) -> None:
        self._ball = ball
        self._chance = np.random.default_rng(list(seed))
        self._width = np.maximum(ball.radius * PART_OF_EPSILON, ball.extent.step * (ball.radius > 0))
        self._offset: Array = np.zeros(ball.centre.shape)
        self._directions: list[Array] = []
        self._mean: Array = np.zeros(ball.centre.shape)
        self._square: Array = np.zeros(ball.centre.shape)
        self._steps = 0

    @property
    def asks(self) -> int:
        return ASKS

    def ask(self) -> list[Array]:
        shape = self._ball.centre.shape
        self._directions = [self._chance.choice((-1.0, 1.0), shape) for _ in range(DIRECTIONS)]
        return [self._ball.around(offset) for offset in self._offsets()]

    def tell(self, losses: Sequence[float]) -> None:
        slope: Array = np.zeros(self._ball.centre.shape)
        for nth, direction in enumerate(self._directions):
            slope += (losses[1 + 2 * nth] - losses[2 + 2 * nth]) / (2 * DIRECTIONS) * direction
        self._steps += 1
        self._mean = MEMORY * self._mean + (1 - MEMORY) * slope
        self._square = MEMORY_OF_SQUARES * self._square + (1 - MEMORY_OF_SQUARES) * slope**2
        mean = self._mean / (1 - MEMORY**self._steps)
        square = self._square / (1 - MEMORY_OF_SQUARES**self._steps)
        moved = self._offset - self._width * mean / (np.sqrt(square) + LEAST)
        self._offset = np.clip(moved, -self._ball.radius, self._ball.radius)

    def _offsets(self) -> list[Array]:
        """The offset itself, and two along each direction, which stay in the ball."""
        steps = [sign * self._width * direction for direction in self._directions for sign in (1, -1)]
        return [self._offset, *(np.clip(self._offset + step, -self._ball.radius, self._ball.radius) for step in steps)]
