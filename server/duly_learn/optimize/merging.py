"""The step that merges preprocessing into the graph: it takes the bytes of pictures as they come over the wire, or as
they are resized, in place of numbers that the worker makes of them one frame at a time.

What clients send stays the same. Of an input's operations the last ones are merged, as far back as the graph can carry
them out; what is before stays with the worker. Postprocessing stays there too: `yolo_v2` gives as many boxes as it
finds, which differ from frame to frame of a batch, and needs to know where a letterbox has put the picture.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from duly.models.spec import Input, TensorSpec
from duly.models.steps import Gray, Layout, Normalise, Resize, Step, Window
from duly_learn.graphs.constants import with_initializers
from duly_learn.graphs.front import Extent, Front, floating
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused

SENT = {"UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16}
"""Element types of pictures that the graph can take in place of floating point."""


@dataclass(frozen=True, slots=True)
class Merging:
    """Merges preprocessing into the graph."""

    name: str = "merged"

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        """Raises Refused where no input has preprocessing that the graph can carry out."""
        config = source.version.config
        model = with_initializers(source.load())
        inputs, said, reasons = list(config.inputs), [], []
        for place, declared in enumerate(config.inputs):
            sent = next(each for each in source.signature.inputs if each.name == declared.name)
            try:
                inputs[place], merged = _merge(model, declared, sent, has_post=config.postprocess is not None)
                said.append(f"{', '.join(merged)} of input '{declared.name}'")
            except Refused as error:
                reasons.append(f"input '{declared.name}': {error}")
        if not said:
            raise Refused(f"nothing can be merged: {'; '.join(reasons) or 'model.toml states no preprocessing'}")
        if config.batch_axis:
            raise Refused("nothing can be merged: batch_axis says that the batch is not the graph's first dimension")
        onnx.save(model, str(folder / "model.onnx"))
        notes = [f"{reason}." for reason in reasons]
        for old, new in zip(config.inputs, inputs, strict=True):
            if new is not old and new.preprocess:
                notes.append(f"{', '.join(step.op for step in new.preprocess)} of '{old.name}' stays with the worker.")
        if config.postprocess is not None:
            notes.append(
                f"Postprocessing ({config.postprocess.op}) stays with the worker: it finds any number of boxes."
            )
        stated = [each.model_dump(mode="json", exclude_unset=True) for each in inputs]
        return Candidate(
            "model.onnx", f"the graph takes pictures as bytes: merged {'; '.join(said)}", notes, {"input": stated}
        )


def _merge(model: onnx.ModelProto, declared: Input, sent: TensorSpec, has_post: bool) -> tuple[Input, list[str]]:
    """Changes the graph. Returns the input's settings as they are then, and what was merged. Raises Refused."""
    name = declared.tensor or declared.name
    front = Front(model, name)
    extents = model_extents(model, name)
    if not declared.preprocess:
        raise Refused("model.toml states no preprocessing for it")
    if sent.datatype not in SENT:
        raise Refused(
            f"clients send it as {sent.datatype}, so that nothing would be smaller; where its numbers are whole ones, "
            'say datatype = "UINT8"'
        )
    if not floating(front.type_of_graph):
        raise Refused("the graph takes whole numbers already")
    if declared.reshape is not None or declared.batch_axis or len(extents) != 4:
        raise Refused("the graph does not take [batch, height, width, channels] or [batch, channels, height, width]")
    first = _first_merged(declared.preprocess, sent, has_post)
    merged = declared.preprocess[first:]
    if not merged:
        raise Refused(f"{declared.preprocess[-1].op} is done by the worker")
    shape = _before(declared.preprocess, first, sent, extents)
    _add(front, merged, shape)
    front.close(
        SENT[sent.datatype], [extents[0], *(each if each > 0 else f"{name}.{i}" for i, each in enumerate(shape))]
    )
    changes: dict[str, object] = {"preprocess": declared.preprocess[:first], "datatype": sent.datatype}
    if first == 0 and declared.shape is None:
        changes["shape"] = shape
    unset = declared.model_dump(exclude_unset=True) | changes
    return Input.model_validate(unset), [step.op for step in merged]


def model_extents(model: onnx.ModelProto, name: str) -> list[Extent]:
    """Returns the extents of a graph's input, those that are open by their names."""
    found = next(each for each in model.graph.input if each.name == name).type.tensor_type.shape.dim
    return [each.dim_value if each.HasField("dim_value") else each.dim_param or f"d{i}" for i, each in enumerate(found)]


def _first_merged(steps: tuple[Step, ...], sent: TensorSpec, has_post: bool) -> int:
    """The place of the first operation that the graph can carry out, with all that follow."""
    first = len(steps)
    for place in range(len(steps) - 1, -1, -1):
        step = steps[place]
        if isinstance(step, Window):
            break
        if isinstance(step, Resize) and (min(sent.shape) < 0 or (has_post and step.mode == "letterbox")):
            break  # of any size, or postprocessing has to know where the picture lies
        if isinstance(step, Gray) and sent.datatype != "UINT8":
            break
        first = place
    return first


def _before(steps: tuple[Step, ...], first: int, sent: TensorSpec, extents: list[Extent]) -> tuple[int, ...]:
    """The shape [height, width, channels] that the first merged operation gets; -1: any."""
    if first == 0 and min(sent.shape) > 0:
        return sent.shape
    layout = next((step for step in steps if isinstance(step, Layout)), None)
    given = [each if isinstance(each, int) and each > 0 else -1 for each in extents[1:]]
    height, width, channels = (given[1], given[2], given[0]) if layout and layout.axes == "CHW" else given
    if any(isinstance(step, Resize) for step in steps[:first]):
        resize = next(step for step in steps if isinstance(step, Resize))
        height, width = resize.height, resize.width
    if any(isinstance(step, Gray) for step in steps[first:]):
        channels = 3
    return (height, width, channels if channels > 0 else sent.shape[2])


def _add(front: Front, steps: tuple[Step, ...], shape: tuple[int, ...]) -> None:
    """Adds what the operations do, in their order, and the arithmetic last, as the worker does it."""
    factor = np.ones(1, np.float32)
    offset: np.ndarray[tuple[int], np.dtype[np.float32]] | None = None
    planar = False
    for step in steps:
        if isinstance(step, Gray):
            _gray(front)
        elif isinstance(step, Resize):
            _resize(front, step, shape)
        elif isinstance(step, Normalise):
            mean, std = np.broadcast_arrays(step.mean, step.std)
            factor = (step.scale / std).astype(np.float32)
            shift = (-mean / std).astype(np.float32)
            offset = shift if shift.any() else None
        elif isinstance(step, Layout):
            if step.colours == "BGR":
                front.add("Gather", np.array([2, 1, 0]), axis=3)
                factor, offset = factor[::-1], None if offset is None else offset[::-1]
            if step.axes == "CHW":
                front.add("Transpose", perm=[0, 3, 1, 2])
                planar = True
    folded = planar and offset is None and front.scaled_into_first_layer(factor)
    front.add("Cast", to=TensorProto.FLOAT)
    if not folded:
        wide = (-1, 1, 1) if planar else (-1,)
        if (factor != 1).any():
            front.add("Mul", factor.reshape(wide))
        if offset is not None:
            front.add("Add", offset.reshape(wide))
    if front.type_of_graph != TensorProto.FLOAT:
        front.add("Cast", to=front.type_of_graph)


def _gray(front: Front) -> None:
    """0.299 red + 0.587 green + 0.114 blue in 15 bits, rounded, as OpenCV does it."""
    front.add("Cast", to=TensorProto.INT32)
    front.add("Mul", np.array([9798, 19235, 3735], np.int32))
    front.add("ReduceSum", np.array([3]), keepdims=1)
    front.add("Add", np.array(1 << 14, np.int32))
    front.add("Div", np.array(1 << 15, np.int32))
    front.add("Cast", to=TensorProto.UINT8)


def _resize(front: Front, step: Resize, shape: tuple[int, ...]) -> None:
    """Bilinear and rounded to whole numbers. OpenCV weighs pixels in 11 bits: one level of 255 may differ."""
    height, width = step.height, step.width
    if shape[:2] == (height, width):
        return
    inner = (height, width)
    if step.mode == "letterbox":
        scale = min(height / shape[0], width / shape[1])
        inner = (max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale)))
    front.add("Transpose", perm=[0, 3, 1, 2])
    front.add("Cast", to=TensorProto.FLOAT)
    scales = np.array([1, 1, inner[0] / shape[0], inner[1] / shape[1]], np.float32)
    front.add("Resize", np.zeros(0, np.float32), scales, mode="linear", coordinate_transformation_mode="half_pixel")
    front.add("Round")
    front.add("Transpose", perm=[0, 2, 3, 1])
    if inner != (height, width):
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        pads = np.array([0, top, left, 0, 0, height - inner[0] - top, width - inner[1] - left, 0])
        front.add("Pad", pads, np.array(114 if step.pad is None else step.pad, np.float32))
