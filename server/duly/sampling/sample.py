"""One frame as it is kept: what was sent, what was answered, and, where a client has said so later, what was right."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from duly.sampling.runs import State

Array = npt.NDArray[Any]
Key = tuple[str, int]
"""What clients call a frame by: a stream's key and the frame's id."""

FORMAT = 1
"""Of the files, in case that they have to change."""

INPUT, OUTPUT, LABEL = "input.", "output.", "label."
"""What the names of arrays begin with in files; the name of the tensor follows."""

NUMPY_TYPES = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BF16": "<u2",
}
"""How the protocol's element types lie in files. BF16 is kept as its bits. STRING becomes text of NumPy's (`U`)."""


@dataclass(frozen=True, slots=True)
class Form:
    """What frames of one version have in common."""

    model: str
    version: str
    datatypes: Mapping[str, str]
    """The element type of each array, in the protocol's words, by the array's name in files. Of an encoded input it is
    UINT8, as its bytes lie there."""
    output_shapes: Mapping[str, tuple[int, ...]]
    """The shape of each output, in which -1 stands for any extent: what a label in its place has to fit."""
    class_label: str = "label"
    """The name under which clients say which class is right."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a client has said about a frame later."""

    unix_ns: int
    """When the label came, on the server's wall clock."""
    principal: str
    """Who sent it."""
    weight: float = 1.0
    """How much it counts, as its sender says."""
    source: str = ""
    """Where it is from, as its sender says."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame."""

    form: Form
    variant: str
    stream: str
    """The stream's key (`StreamOpened.stream_key`), unique also over restarts of servers."""
    frame_id: int
    received_unix_ns: int
    """When it was received, on the server's wall clock, ns since 1970."""
    captured_unix_ns: int
    """When it was captured, on the server's wall clock, where the clocks were related; else 0."""
    status: str
    """ON_TIME or LATE, as the scheduler has it."""
    principal: str
    """Whose stream it was."""
    arrays: Mapping[str, Array]
    """All arrays by their names in files: `input.NAME`, `output.NAME`, `label.NAME`. An encoded input is the bytes that
    the client sent."""
    encodings: Mapping[str, str] = field(default_factory=dict)
    """Of the inputs that are encoded, in what, by the array's name: JPEG, PNG, PCM_S16LE, MJPEG, H264, HEVC."""
    stream_name: str = ""
    """As the client called it."""
    pieces: tuple[tuple[str, int], ...] = ()
    """Of a frame that was joined from several streams: the key and frame id of each piece, in the order of inputs."""
    labelled: Labelled | None = None
    """None: there is no label yet."""
    guards: tuple[str, ...] = ()
    """The model's guards that found something on the frame."""
    state: State | None = None
    """What the state had seen that the frame ran with; None: the model keeps none, or it is not known."""
    drawn: bool = False
    """Whether its stream was one of those that went over in turns to a version on trial."""

    @property
    def inputs(self) -> dict[str, Array]:
        """The inputs by their names; those in `encodings` are bytes as they were sent."""
        return self._called(INPUT)

    @property
    def outputs(self) -> dict[str, Array]:
        """What was answered, by the outputs' names."""
        return self._called(OUTPUT)

    @property
    def labels(self) -> dict[str, Array]:
        """What is right, as a client has said: an output's name, or the form's `class_label`, with the value. Empty: it
        has no label.
        """
        return self._called(LABEL)

    @property
    def keys(self) -> tuple[Key, ...]:
        """Under what clients know it: a stream's key and a frame id; a joint frame has several."""
        return self.pieces or ((self.stream, self.frame_id),)

    def _called(self, kind: str) -> dict[str, Array]:
        return {name[len(kind) :]: array for name, array in self.arrays.items() if name.startswith(kind)}

    def with_labels(self, labels: Mapping[str, Array], datatypes: Mapping[str, str], labelled: Labelled) -> "Sample":
        """Returns the frame with these labels, by name, in place of those that it has."""
        kept = {name: array for name, array in self.arrays.items() if not name.startswith(LABEL)}
        types = {name: datatype for name, datatype in self.form.datatypes.items() if not name.startswith(LABEL)}
        return replace(
            self,
            form=replace(self.form, datatypes=types | {LABEL + name: datatypes[name] for name in labels}),
            arrays=kept | {LABEL + name: array for name, array in labels.items()},
            labelled=labelled,
        )


# ---- what stands in the array `meta` of a file ----


def form_meta(form: Form) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": form.model,
        "version": form.version,
        "datatypes": dict(form.datatypes),
        "output_shapes": {name: list(shape) for name, shape in form.output_shapes.items()},
        "class_label": form.class_label,
    }


def form_of(meta: Mapping[str, Any]) -> Form:
    """Raises KeyError, TypeError or ValueError where it is none."""
    if meta["format"] != FORMAT:
        raise ValueError(f"it has format {meta['format']!r}, this version reads {FORMAT}")
    shapes = {str(name): tuple(map(int, shape)) for name, shape in meta["output_shapes"].items()}
    datatypes = {str(name): str(datatype) for name, datatype in meta["datatypes"].items()}
    return Form(str(meta["model"]), str(meta["version"]), datatypes, shapes, str(meta["class_label"]))


def frame_meta(sample: Sample) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "variant": sample.variant,
        "stream": sample.stream,
        "frame_id": sample.frame_id,
        "received_unix_ns": sample.received_unix_ns,
        "captured_unix_ns": sample.captured_unix_ns,
        "status": sample.status,
        "principal": sample.principal,
    }
    if sample.stream_name:
        meta["stream_name"] = sample.stream_name
    if sample.encodings:
        meta["encodings"] = dict(sample.encodings)
    if sample.pieces:
        meta["pieces"] = [list(piece) for piece in sample.pieces]
    if sample.guards:
        meta["guards"] = list(sample.guards)
    if sample.state is not None:
        meta["state"] = list(sample.state)
    if sample.drawn:
        meta["drawn"] = True
    if (label := sample.labelled) is not None:
        meta["label"] = {
            "unix_ns": label.unix_ns,
            "principal": label.principal,
            "weight": label.weight,
            "source": label.source,
        }
    return meta


def sample_of(form: Form, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> Sample:
    """Raises KeyError, TypeError or ValueError where it is none."""
    label = meta.get("label")
    return Sample(
        form=form,
        variant=str(meta["variant"]),
        stream=str(meta["stream"]),
        frame_id=int(meta["frame_id"]),
        received_unix_ns=int(meta["received_unix_ns"]),
        captured_unix_ns=int(meta["captured_unix_ns"]),
        status=str(meta["status"]),
        principal=str(meta["principal"]),
        arrays=arrays,
        encodings={str(name): str(encoding) for name, encoding in meta.get("encodings", {}).items()},
        stream_name=str(meta.get("stream_name", "")),
        pieces=tuple((str(stream), int(frame_id)) for stream, frame_id in meta.get("pieces", ())),
        guards=tuple(map(str, meta.get("guards", ()))),
        state=None if meta.get("state") is None else State(*map(int, meta["state"])),
        drawn=bool(meta.get("drawn", False)),
        labelled=None
        if label is None
        else Labelled(int(label["unix_ns"]), str(label["principal"]), float(label["weight"]), str(label["source"])),
    )


def keys_of(meta: Mapping[str, Any]) -> tuple[Key, ...]:
    """Returns what clients call the frame of which a file says this. Raises ValueError where it cannot be read."""
    try:
        pieces = meta.get("pieces") or [(meta["stream"], meta["frame_id"])]
        return tuple((str(stream), int(frame_id)) for stream, frame_id in pieces)
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError("what it says of a frame cannot be read") from error


def numpy_type(datatype: str) -> "np.dtype[Any]":
    """Returns how elements of that type lie in files; of STRING: text of any length. Raises KeyError where there is no
    such type.
    """
    return np.dtype(np.str_) if datatype == "STRING" else np.dtype(NUMPY_TYPES[datatype])
