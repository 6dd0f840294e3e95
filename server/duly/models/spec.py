"""What a model is: the contents of `model.toml`, checked, and what only its loaded graph can say.

`ModelConfig` is what the author wrote. `Signature` is what a frame must hold and what an outcome holds, as a worker
reports it after it has loaded the graph. Neither needs onnxruntime.
"""

import hashlib
import json
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from duly.core.types import BACKLOG_FRAMES_MAX, BacklogPolicy, GapPolicy, StreamClass
from duly.models.control import Control
from duly.models.guards import GUARDS_MAX, GuardName, Guards
from duly.models.kserve import KServe
from duly.models.learning import Learning
from duly.models.steps import Step
from duly.models.strict import Strict
from duly.models.task import Task
from duly.models.trial import Trial
from duly.models.which_versions import Versions

DataTypeName = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "STRING",
    "BF16",
]
ELEMENT_BYTES: dict[str, int] = {
    name: int("".join(filter(str.isdigit, name)) or 8) // 8 for name in get_args(DataTypeName)
} | {"STRING": 4}
"""Size of an element: the name of every type but BOOL, which takes one byte, and STRING ends in its bits. An element of
STRING takes at least so many, those of its length."""
TEXT_ELEMENTS_MAX = 1 << 16
"""A tensor of text has no more elements, as each costs a worker a third of a microsecond however short it is. An input
with more is INVALID, an output with more FAILED, and a model whose fixed shapes have more is not loaded."""
Encoding = Literal["JPEG", "PNG", "PCM_S16LE", "MJPEG", "H264", "HEVC"]
VIDEO: tuple[Encoding, ...] = ("H264", "HEVC")
"""Encodings whose pictures depend on those before them."""

EXAMPLE_CHARS_MAX = 1000
"""A model.toml with a longer example of text is not loaded."""

BATCH_MAX = 256
"""The largest batch that a model may allow; one that states more is not loaded. Triton's examples stop at 128."""

PIXELS_MAX = 64 << 20
"""No model takes a picture with more pixels, since a small file can claim to hold a huge one."""
PICTURE_PIXELS = 12 << 20
"""A model takes pictures of any size up to this where it says nothing else: what cameras of 4K and of twelve million
pixels give, and no more than a lane decodes in a few tenths of a second."""
PICTURE_TIMES_INPUT = 16
"""Or pictures with so many times the pixels that its graph takes: four times as wide and as high. Who needs more of a
picture than that loses nearly all of it, and had better send less."""

VARIANTS_MAX = 16
"""A version with more variants is not loaded: each is loaded and warmed on every lane."""


class Input(Strict):
    """One input as the client sees it. Where `preprocess` is empty, it is the graph's own input."""

    name: str
    tensor: str = ""
    """The graph input that it feeds; empty: the graph input of the same name."""
    datatype: DataTypeName | None = None
    """The element type that clients send; None: the type that the graph or the first operation takes. It is also the
    depth of pictures: UINT8, or UINT16 for PNG of 16 bits a channel, which then arrive with their values.
    """
    shape: tuple[int, ...] | None = None
    """The shape of one frame without the batch dimension, where -1 is any extent; None: as the graph needs it."""
    reshape: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """The shape that the graph has for it, without the batch dimension, where that is another one with as many
    elements: [1, 3, 8, 8] for a `shape` of [3, 8, 8]. None: the graph has `shape`."""
    encodings: tuple[Encoding, ...] = ()
    """Formats that clients may send in place of a tensor. H264 and HEVC are video, one access unit a frame:
    the model keeps state then, which is the decoder of each stream (docs/video.md). A picture of another depth, in
    colour where the shape says 1 channel, with transparent pixels, or in CMYK is INVALID; gray becomes three equal
    channels where the shape says 3.
    """
    sample_rate_hz: PositiveInt | None = None
    finite: bool = True
    """NaN and infinities make a frame INVALID."""
    bytes_max: PositiveInt | None = None
    """Bytes of the largest payload of one frame; None: as the shape needs where it is fixed, 40 MiB where it may be
    encoded, otherwise 8 MiB. It is less where the server's limits leave less, which is said at load."""
    pixels_max: Annotated[int, Field(ge=1, le=PIXELS_MAX)] | None = None
    """Pixels of the largest picture that is decoded, for inputs with pictures or video among their encodings;
    None: as the shape has where it is fixed, otherwise 12 Mi, or 16 times what the graph takes if that is more. A
    picture whose header states more is INVALID before anything is decoded."""
    example: Annotated[str, Field(min_length=1, max_length=EXAMPLE_CHARS_MAX)] | None = None
    """Of text: an element that the graph takes, with which it is tried and warmed; None: "0"."""
    batch_axis: Annotated[int, Field(ge=0)] | None = None
    """The dimension of the graph's input that is the batch; None: as the model states it."""
    preprocess: tuple[Annotated[Step, Field(discriminator="op")], ...] = ()

    @property
    def remembers(self) -> bool:
        """Something of a frame is kept for the next frame of the same stream."""
        return any(step.remembers for step in self.preprocess) or not set(VIDEO).isdisjoint(self.encodings)


class Output(Strict):
    """One graph output that clients get."""

    name: str
    tensor: str = ""
    """The graph output; empty: the graph output of the same name."""
    datatype: DataTypeName | None = None
    """The element type that the graph must give; None: whatever it gives."""
    shape: tuple[int, ...] | None = None
    """The shape of one frame's result without the batch dimension, where -1 is any extent, that must fit what the graph
    gives; None: whatever it gives."""
    reshape: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """The shape that the graph has for it, where that is another one than `shape`; see `Input.reshape`."""
    labelled: bool = False
    """Whether it has the names of `labels`. Where no output says so, all have them."""
    bytes_max: PositiveInt | None = None
    """Bytes of the largest result of one frame; None: as the shape needs where it is fixed, otherwise 16 times the
    bytes of the largest frame, or 64 MiB if that is more. Results that are larger are FAILED."""
    batch_axis: Annotated[int, Field(ge=0)] | None = None
    """The dimension of the graph's output that is the batch; None: as the model states it, or as is found out."""
    batched: bool | None = None
    """Whether the graph's output has a batch dimension; False: a frame gets all of it, and frames run one at a time.
    None: it is found out."""
    finite: bool | None = None
    """Whether a NaN or an infinity in it makes the frame FAILED; None: as `output_finite` says for all outputs."""


class YoloV2(Strict):
    """The region layer of YOLOv2. It turns a grid [anchors*(5+classes), H, W] into `boxes` FP32[n,4] (x0,y0,x1,y1 in
    0..1 of the picture), `scores` FP32[n] and `classes` INT64[n], best first, after non-maximum suppression within a
    class.
    """

    op: Literal["yolo_v2"]
    tensor: str
    """The graph output that holds the grid."""
    anchors: tuple[tuple[PositiveFloat, PositiveFloat], ...]
    """Width and height in cells."""
    score_min: Annotated[float, Field(gt=0, lt=1)] = 0.3
    iou_max: Annotated[float, Field(gt=0, lt=1)] = 0.45
    detections_max: PositiveInt = 100


STATES_MAX = 4096
"""A model that keeps state serves so many open streams, whose states its workers hold; then STREAMS_EXHAUSTED."""


CARRIED_BYTES_MAX = 64 << 20
"""Streams whose states are larger than this for the largest batch start anew on another version, as a lane would wait
for the states to go over."""


class Chunk(Strict):
    """An output that holds actions for a stretch of time, as robot policies give them: its first dimension are actions,
    in their order. Clients are told when each is due, and how long the next frame is planned to take.
    """

    output: str
    """The output that holds the actions, by the name that clients know."""
    dt_ms: Annotated[float, Field(gt=0, le=60_000)]
    """The time between two actions."""
    t0_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    """When the first action is due, since the capture of the frame."""

    @property
    def dt_ns(self) -> int:
        return max(1, round(self.dt_ms * 1e6))

    @property
    def t0_ns(self) -> int:
        return round(self.t0_ms * 1e6)


class State(Strict):
    """A graph output that is fed back as a graph input of the same stream's next frame."""

    output: str
    input: str
    batch_axis: Annotated[int, Field(ge=0)] = 0
    datatype: DataTypeName | None = None
    """The element type that it must have in the graph; None: whatever it has."""
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """The shape for one stream without the batch dimension, where the graph leaves it open; None: as the graph has
    it."""
    initial: str = ""
    """A file in the model's folder with what a stream begins with: the elements alone, in row-major order and little
    endian, for one stream. Empty: it begins with zeros."""


class Provider(Strict):
    """An ONNX Runtime execution provider, such as CUDAExecutionProvider, with its options as ORT names them."""

    name: str
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    library: Path | None = None
    """The shared library of a plugin provider, which is registered under `name`."""


class Variant(Strict):
    name: str
    file: str = "model.onnx"
    """The path of the file, relative to the version's folder."""
    accuracy: Annotated[float, Field(ge=0)] = 0.0
    """The accuracy that the author states, where larger is better; 0: none is stated."""
    int8_calibration: str = ""
    """A file in the version's folder with the ranges of the graph's tensors, in which TensorRT or MIGraphX then runs it
    with 8 bits; `duly models calibrate` makes it. Empty: it runs as it is."""


def _one_of(kind: type[IntEnum]) -> Callable[[str], str]:
    """A check that a word is the name of a member."""

    def check(word: str) -> str:
        if word not in kind.__members__:
            expected = ", ".join(kind.__members__)
            raise PydanticCustomError("unknown_word", "should be one of {expected}", {"expected": expected})
        return word

    return check


class Checks(Strict):
    """What a version must show once it is warm, before it serves: the results of its check samples (worker/checks),
    which lie in `NAME/VERSION/checks/*.npz` or `NAME/checks/*.npz`, and how long it takes."""

    absolute: Annotated[float, Field(ge=0)] = 1e-4
    """By how much a number of a result may differ from the stated one."""
    relative: Annotated[float, Field(ge=0)] = 1e-3
    """By what share of the stated number it may differ besides."""
    samples_min: Annotated[int, Field(ge=0, le=64)] = 0
    """A version with fewer samples is not served."""
    one_ms_max: PositiveFloat | None = None
    """How long one frame alone may take in the most accurate variant, by the median of the warm-up, in ms."""


class ModelConfig(Strict):
    """`NAME/model.toml`. Every field has a default: a bare `NAME/VERSION/model.onnx` needs no file."""

    description: str = ""
    default_budget_ms: Annotated[float, Field(gt=0, le=600_000)] = 100.0
    default_class: Annotated[str, AfterValidator(_one_of(StreamClass))] = "STANDARD"
    default_backlog: Annotated[str, AfterValidator(_one_of(BacklogPolicy))] = "LATEST"
    default_backlog_frames: Annotated[int, Field(ge=1, le=BACKLOG_FRAMES_MAX)] = 1
    """How many frames a stream with KEEP_LAST keeps waiting."""
    gap: Annotated[str, AfterValidator(_one_of(GapPolicy))] = "CONTINUE"
    """What a stream of a stateful model does after a gap if it asks for nothing else."""
    version_change: Literal["RESET", "CARRY"] = "RESET"
    """What becomes of the state of open streams when this version takes over from another one, or when one goes back to
    it: the streams start anew (RESET), or go on with the state that the other version has kept of them (CARRY), if that
    has the same tensors: names, types and shapes. Where it has not, or is more than 64 MiB for the largest batch, they
    start anew and are told. It is for the author to know that the state means the same to both versions."""
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=BATCH_MAX)], ...] | None = Field(
        default=None, max_length=BATCH_MAX
    )
    """The batch sizes that are warmed and profiled; None: the graph's fixed size, or 1, 2, 4, 8."""
    any_size: bool = True
    """Whether any size up to the largest may run; False: only `batch_sizes` run, and smaller batches are padded."""
    batched: bool | None = None
    """Whether the graph has a batch dimension; False: a frame is the whole of each of its tensors, and frames run one
    at a time. None: it is found out, see worker/batch_dimension."""
    batch_axis: Annotated[int, Field(ge=0)] = 0
    """The dimension of the graph's inputs and outputs that is the batch, where they state no other."""
    dependent_rows: Literal["ALONE", "REFUSE", "BATCH"] = "ALONE"
    """What happens where the frames of a batch are found to influence one another when the model is loaded: the graph
    runs them one after another (ALONE), the model is not served (REFUSE), or they share runs all the same (BATCH)."""
    providers: tuple[Provider, ...] = ()
    """The execution providers in order of preference; empty: CUDA where the lane is a GPU, otherwise CPU."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Intra-op threads on the CPU; 0: as the server is set."""
    spinning: bool = False
    """Whether idle intra-op threads spin, which makes runs a little faster and keeps a core busy."""
    cuda_graph: bool = False
    """Whether one CUDA graph is captured for each batch size; for CUDA and fixed shapes only."""
    warmup_runs: Annotated[int, Field(ge=1, le=1000)] = 30
    """Timed runs of each batch size before the model serves. From about 30 runs on, the slowest is no mere chance."""
    labels: str = ""
    """A file beside model.toml with one class name in each line. Clients get the names with the outputs."""
    inputs: tuple[Input, ...] = Field(default=(), alias="input")
    outputs: tuple[Output, ...] = Field(default=(), alias="output")
    states: tuple[State, ...] = Field(default=(), alias="state")
    controls: tuple[Control, ...] = Field(default=(), alias="control")
    guards: Guards = Field(default=(), alias="guard")
    variants: tuple[Variant, ...] = Field(default=(Variant(name="default"),), alias="variant")
    """The variants, the most accurate first. All take the same inputs and give the same outputs."""
    output_finite: bool | None = None
    """Whether NaN and infinities in outputs of floating point make a frame FAILED, and in a state too; None: they do
    where the model is declared a classifier or detector, by `labels` or `postprocess`, whose scores are numbers. A
    worker that gives nothing else is replaced once; if that does not help, the version is FAILED."""
    memory_bytes_max: PositiveInt | None = None
    """Memory that runs on the CPU may take beyond what a worker has once it is warm; None: 1 GiB, or 16 times the bytes
    of the largest batch if that is more. Frames for which it is not enough are FAILED."""
    device_memory_bytes_max: PositiveInt | None = None
    """Memory of a GPU that a worker may take there, in all variants together; None: as the server is set."""
    constants: dict[str, int | float | bool] = Field(default_factory=dict)
    """The values of graph inputs that are the same for every frame, such as a sample rate."""
    postprocess: YoloV2 | None = None
    chunk: Chunk | None = None
    """The output that holds actions for a stretch of time; None: there is none."""
    checks: Checks = Checks()
    """What a new version must show before it serves."""
    versions: Versions = Versions()
    """Which versions are served."""
    kserve: KServe = KServe()
    """What clients of the KServe protocol are told and may ask for."""
    task: Task = Task()
    """What answers are for, and when two of them count as the same."""
    learning: Learning | None = None
    """How new versions are made from labelled frames while the server runs; None: they are not."""
    trial: Trial | None = None
    """How a new version is tried on live frames before it becomes active; None: it is not."""

    @property
    def gives_finite(self) -> bool:
        """Whether outputs have to be finite where they do not say otherwise."""
        return self.output_finite if self.output_finite is not None else bool(self.labels or self.postprocess)

    @property
    def variant_names(self) -> list[str]:
        """The names of the variants, the most accurate first."""
        return [variant.name for variant in self.variants]

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        for index, output in enumerate(self.outputs):
            if output.labelled and not self.labels:
                raise ValueError(f"output[{index}].labelled: there are no names; say labels = FILE at the top")
        if self.batch_sizes is not None and sorted(set(self.batch_sizes)) != list(self.batch_sizes):
            raise ValueError(f"batch_sizes must rise without repeats, got {list(self.batch_sizes)}")
        if not self.variants:
            raise ValueError("variant: at least one is needed, or leave the table out")
        if len(self.variants) > VARIANTS_MAX:
            raise ValueError(f"variant: at most {VARIANTS_MAX} can be served, got {len(self.variants)}")
        remembers = self.states or self.controls or any(each.remembers for each in self.inputs)
        if len(self.variants) > 1 and remembers:
            raise ValueError(
                f"variant: a model that keeps state of its streams has one variant, got {len(self.variants)}; one "
                "can't go on with another's state"
            )
        for index, (variant, better) in enumerate(zip(self.variants[1:], self.variants, strict=False), start=1):
            if variant.accuracy > better.accuracy > 0:
                raise ValueError(
                    f"variant[{index}].accuracy: {variant.accuracy:g} is above {better.accuracy:g} of the one before "
                    "it; put the most accurate first"
                )
        for index, variant in enumerate(self.variants):
            as_it = (
                v for v in self.variants if (v.file, v.int8_calibration) == (variant.file, variant.int8_calibration)
            )
            if (first := next(as_it)) is not variant:
                raise ValueError(
                    f'variant[{index}].file: "{variant.file}" is the file of variant "{first.name}" already; variants '
                    "are different graphs, each with its file, or one graph with and without int8_calibration"
                )
        for kind, names in (
            ("input", [i.name for i in self.inputs]),
            ("output", [o.name for o in self.outputs]),
            ("variant", [v.name for v in self.variants]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{kind}: names must differ, got {names}")
        return self


class TensorSpec(Strict):
    """What a client sends for an input or gets for an output, for one frame."""

    name: str
    datatype: DataTypeName
    shape: tuple[int, ...]
    """The shape of one frame without the batch dimension; -1 stands for any extent."""
    encodings: tuple[Encoding, ...] = ()
    labels: tuple[str, ...] = ()
    sample_rate_hz: int = 0
    finite: bool = False
    bytes_max: int = 0
    """Bytes of the largest payload of one frame. Until `models/sizes` has settled it, what model.toml states for a size
    that is open, or 0."""
    pixels_max: int = 0
    """Pixels of the largest picture that is decoded; 0: the input takes no encoded pictures."""
    batched: bool = True
    """Whether the graph's own tensor has a batch dimension; False: a frame is the whole of it."""
    example: str = ""
    """An element of text that the graph takes; empty: any will do."""

    @property
    def is_text(self) -> bool:
        """Whether its elements are text, so that its size follows from no shape."""
        return self.datatype == "STRING"

    def said(self) -> str:
        """What it is, in words, with its room where that is settled."""
        return f"{self.datatype}{list(self.shape)}" + (
            f" of at most {self.bytes_max:,} bytes" if self.bytes_max else ""
        )


class Signature(Strict):
    """What a worker found when it loaded the graph under a ModelConfig."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_sizes: tuple[int, ...]
    any_size: bool
    stateful: bool
    states: tuple[TensorSpec, ...] = ()
    """What is kept of each stream: the state tensors, without the batch dimension, and the ends of its sound."""
    chunk: Chunk | None = None
    """The output that holds actions, as model.toml states it; None: there is none."""
    guards: tuple[GuardName, ...] = Field(default=(), max_length=GUARDS_MAX)
    """The names of the model's guards, with which outcomes may be flagged, in the order of model.toml."""
    watched: bool = False
    """Whether a guard remembers something of each stream, which a worker is to forget with the stream."""

    @property
    def batched(self) -> bool:
        """Whether the graph takes several frames as one batch, as clients of protocols with batches see it."""
        return any(spec.batched for spec in self.inputs)

    @property
    def state_bytes(self) -> int:
        """Bytes of all that is kept of a stream."""
        return sum(spec.bytes_max for spec in self.states)

    @property
    def state_layout(self) -> str:
        """The same text for versions that can go on with each other's state; empty: no other version can."""
        if not self.states or self.state_bytes * max(self.batch_sizes) > CARRIED_BYTES_MAX:
            return ""
        kept = json.dumps([[s.name, s.datatype, s.shape, s.sample_rate_hz] for s in self.states])
        return hashlib.sha256(kept.encode()).hexdigest()
