"""What a model's answers are for, which decides when two answers count as the same."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from duly.models.strict import Strict


class Task(Strict):
    """`[task]`: how answers are compared, by `duly models optimize`, `robustness` and trials of new versions. Nothing
    of it changes what is served."""

    measure: Literal["top1", "binary", "boxes", "correlation", "closeness"] | None = None
    """Whether the best class is the same (top1), numbers lie on the same side of `threshold` (binary), boxes of a class
    overlap (boxes: their F1), signals rise and fall together (correlation), or no number is far off (closeness). None:
    as the outputs look, see agreement/choose."""
    output: str = ""
    """The output that is compared, by the name that clients know; empty: as the outputs look."""
    threshold: float = 0.5
    """For binary: where yes begins."""
    iou_min: Annotated[float, Field(gt=0, le=1)] = 0.5
    """For boxes: two stand for the same thing from this intersection over union on."""
    scale: PositiveFloat | None = None
    """For closeness: a difference that counts as nothing alike; None: the largest number of the frame."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """How much of the agreement a faster variant may lose."""
