"""Graph inputs that the server fills by itself, by what it knows of a frame and its stream."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from duly.models.strict import Strict

CONTROLS_MAX = 16
"""A model with more is not loaded. Triton knows four kinds."""

Kind = Literal["START", "READY", "END", "STREAM"]


class Control(Strict):
    """A graph input with one number for each frame. A model that has any keeps state of its streams: their frames run
    one after another, on one lane.
    """

    input: str
    """The graph input. For one frame it has one element, whatever its dimensions."""
    kind: Kind
    """START: whether the frame begins its stream, or begins it anew after a reset. READY: whether there is a frame in
    the row of the batch at all. END: whether the frame is known to be the last of its stream, as single frames
    are and sequences of the KServe protocol say; false for others. STREAM: the server's number of the stream, which no
    other open stream has; an input of fewer bits than 64 gets its lower ones."""
    false_true: tuple[float, float] | None = None
    """The numbers that stand for false and true; None: 0 and 1. STREAM has none."""
    batch_axis: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> "Control":
        if self.false_true is None:
            return self
        if self.kind == "STREAM":
            raise ValueError("control: STREAM is a number and takes no false_true; leave it out")
        if self.false_true[0] == self.false_true[1]:
            raise ValueError(f"control: false_true should be two numbers that differ, got {list(self.false_true)}")
        return self
