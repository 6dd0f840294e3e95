"""What an attack is to those who run it: it asks for losses of inputs, and goes where they are less.

An attack knows nothing of the model but these losses. It is sans-IO and seeded: equal losses lead to equal inputs.
"""

from collections.abc import Sequence
from typing import Protocol

from duly_learn.frames.frame import Array


class Search(Protocol):
    """An attack on one input of one frame."""

    @property
    def asks(self) -> int:
        """How many inputs each `ask` returns; at least one."""

    def ask(self) -> list[Array]:
        """Returns the inputs whose losses are to be told next, as they are sent."""

    def tell(self, losses: Sequence[float]) -> None:
        """Takes the losses of the inputs asked for, in their order: the less, the worse does the model."""
