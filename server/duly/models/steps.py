"""Preprocessing: from what the client sends to what the graph takes, one frame at a time.

What carries an operation out, and the order of operations, stand in worker/ops.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt

from duly.models.strict import Strict


class _Step(Strict):
    @property
    def remembers(self) -> bool:
        """Something of a frame is kept for the next frame of the same stream."""
        return False


class Gray(_Step):
    """Makes one channel of brightness (ITU-R BT.601) out of a picture in colour, which a model of gray ones never gets
    unasked."""

    op: Literal["gray"]


class Resize(_Step):
    """Resizes a picture HWC of UINT8, UINT16 or FP32 to `height` x `width`, bilinearly. `letterbox` keeps the aspect
    ratio and pads with `pad`.
    """

    op: Literal["resize"]
    width: PositiveInt
    height: PositiveInt
    mode: Literal["stretch", "letterbox"] = "stretch"
    pad: Annotated[int, Field(ge=0, le=65535)] | None = None
    """None: 114, a gray, where pictures are UINT8; for others it must be stated."""


class Normalise(_Step):
    """Computes (x * scale - mean) / std in float32. Mean and std have one number or one a channel (last axis)."""

    op: Literal["normalise"]
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[PositiveFloat, ...] = (1.0,)


class Layout(_Step):
    """Brings the axes of a picture, which are HWC until now, into another order. `BGR` swaps the colours."""

    op: Literal["layout"]
    axes: Literal["CHW", "HWC"] = "CHW"
    colours: Literal["RGB", "BGR"] = "RGB"


class Window(_Step):
    """Takes sound in frames of exactly `samples` samples, and puts the last `context` samples of the same stream before
    them, or zeros at first."""

    op: Literal["window"]
    samples: PositiveInt
    context: Annotated[int, Field(ge=0)] = 0

    @property
    def remembers(self) -> bool:
        return self.context > 0


Step = Gray | Resize | Window | Normalise | Layout


def op_of(step: type[Step]) -> str:
    """The name of the operation in model.toml, such as "resize"."""
    return str(get_args(step.model_fields["op"].annotation)[0])
