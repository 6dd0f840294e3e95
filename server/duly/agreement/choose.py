"""Which measure fits a model: what `[task]` of model.toml says, and else what its outputs look like."""

from collections.abc import Sequence
from typing import Protocol

from duly.agreement.boxes import BoxesF1
from duly.agreement.measures import Binary, Closeness, Correlation, Measure, TopOne

CORRELATED_ELEMENTS_MIN = 8
"""An output of floating point with fewer elements, of which nothing is said, is compared number by number."""


class NoMeasure(ValueError):
    """What `[task]` asks for is not there in the model. The message says what is."""


class TensorLike(Protocol):
    """What a measure needs to know of an output: `models.spec.TensorSpec` is one."""

    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


class SignatureLike(Protocol):
    """`models.spec.Signature` is one."""

    @property
    def outputs(self) -> Sequence[TensorLike]: ...


class TaskLike(Protocol):
    """`models.task.Task` is one."""

    @property
    def measure(self) -> str | None: ...
    @property
    def output(self) -> str: ...
    @property
    def threshold(self) -> float: ...
    @property
    def iou_min(self) -> float: ...
    @property
    def scale(self) -> float | None: ...


def measure_of(task: TaskLike | None, signature: SignatureLike) -> Measure:
    """Returns the measure for a model with these outputs. Raises NoMeasure.

    Where `[task]` names none: boxes for a model with the outputs `boxes` and `classes`; top1 for an output with labels,
    or of one class as a number or text; correlation for other outputs of floating point, or closeness where they have
    fewer than CORRELATED_ELEMENTS_MIN elements.
    """
    outputs = {spec.name: spec for spec in signature.outputs}
    named = task.output if task is not None else ""
    if named and named not in outputs:
        raise NoMeasure(f"task.output: there is no output '{named}'; the model gives {', '.join(outputs)}")
    wanted = task.measure if task is not None else None
    if wanted == "boxes" or (wanted is None and not named and {"boxes", "classes"} <= outputs.keys()):
        boxes = named or "boxes"
        if boxes not in outputs or outputs[boxes].shape[-1:] not in ((4,), (-1,)):
            raise NoMeasure(
                f"task.measure: boxes are compared in an output '{boxes}' of shape [n, 4]; the model gives "
                + ", ".join(f"{spec.name} {list(spec.shape)}" for spec in outputs.values())
            )
        return BoxesF1(task.iou_min if task is not None else 0.5, boxes)
    spec = outputs[named] if named else _telling(list(outputs.values()))
    if wanted is None:
        wanted = _inferred(spec)
    is_text = spec.datatype == "STRING"
    if is_text and wanted in ("binary", "correlation"):
        raise NoMeasure(f"task.measure: '{spec.name}' is text, which has no {wanted}; say top1 or closeness")
    if wanted == "top1":
        return TopOne(spec.name)
    if wanted == "binary":
        return Binary(spec.name, task.threshold if task is not None else 0.5)
    if wanted == "correlation":
        return Correlation(spec.name)
    return Closeness(spec.name, task.scale if task is not None else None)


def missed(task: TaskLike | None, measure: Measure) -> str:
    """Says what a measure that nobody has asked for does not see, and how to ask for another; empty: nothing."""
    if isinstance(measure, Correlation | Closeness) and (task is None or task.measure is None):
        return (
            f"{measure.name} of '{measure.output}' does not see a small change that turns one class into another; if "
            'its numbers are scores of classes, say so in model.toml: [task] measure = "top1", or labels = "FILE"'
        )
    return ""


def _telling(outputs: Sequence[TensorLike]) -> TensorLike:
    """The output that says most of what the answer is: the one with labels, else a class, else the first."""
    labelled = [spec for spec in outputs if spec.labels]
    classes = [spec for spec in outputs if _is_class(spec)]
    return (labelled or classes or list(outputs))[0]


def _is_class(spec: TensorLike) -> bool:
    """Whether it is one class, as a whole number, a truth value or a text."""
    whole = spec.datatype in ("STRING", "BOOL") or "INT" in spec.datatype
    return whole and all(extent == 1 for extent in spec.shape)


def _inferred(spec: TensorLike) -> str:
    if spec.labels or spec.datatype in ("STRING", "BOOL") or _is_class(spec):
        return "top1"
    elements = 1
    for extent in spec.shape:
        elements *= CORRELATED_ELEMENTS_MIN if extent < 0 else extent
    return "correlation" if elements >= CORRELATED_ELEMENTS_MIN and "INT" not in spec.datatype else "closeness"
