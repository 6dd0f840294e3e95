"""Reads what a worker says while it loads a model, and rejects what can't be true or would cost the server too much.

The worker reads files that somebody else made before it says anything, so its word on sizes and times is checked before
the scheduler plans with it: a time longer than the load itself, or a batch that no message has room for, would be at
the expense of all models on the lane.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from duly.core.timing.window import WINDOW
from duly.models.digests import FileDigest
from duly.models.spec import ELEMENT_BYTES, Signature
from duly.runtime.answers import REASON_CHARS_MAX, words
from duly.runtime.frame_costs import FrameCosts
from duly.worker import channel

TEXT_BYTES_MAX = 8 << 20
"""A worker may say so much while it loads a model, in all its messages together. A signature of thousands of tensors
takes a few MB."""
NOTES_MAX = 16
"""Further notes are left out."""
NOTE_CHARS_MAX = 1000
"""Longer notes are cut off."""
NAME_CHARS_MAX = 1000
"""Longer names of providers are cut off; a load with a longer name of a file fails."""
PROVIDERS_MAX = 16
"""Further providers of one variant are left out."""
WARM_AFTER_NS_MIN = 100_000_000
"""A lane is warmed at most ten times a second: what it runs for that, nobody waits for, but others have to."""


DOING_CHARS_MAX = 200
"""What a worker says that it does is cut off there."""
EXPECTED_SECONDS_MAX = 1e7
"""A worker that says that something took longer before is broken, and so its load fails."""


Row = tuple[str, tuple[int, ...]]
"""Element type and shape; -1 stands for any extent."""


@dataclass(slots=True)
class WarmVariant:
    """What a worker found out about one variant."""

    samples_ns: dict[int, tuple[int, ...]]
    """Measured times, by batch size."""
    any_size: bool
    providers: tuple[str, ...]
    """The providers that truly run it, in order of preference."""
    warm_after_ns: int


@dataclass(slots=True)
class Ready:
    """What a worker reports once it is warm."""

    signature: Signature
    """The signature that all variants share."""
    variants: list[WarmVariant]
    """The variants, the most accurate first."""
    costs: FrameCosts
    """What frames of several sizes take, as far as the warm-up has measured it."""
    memory_bytes_max: int
    """Private memory that the worker lets itself have; 0: it has no limit of its own."""
    rows: tuple[Row, ...]
    """What the graph takes of each input for one frame; empty where variants differ in it."""
    notes: tuple[str, ...]
    """What the author of the model should know, in whole sentences: it serves, but perhaps not as was meant."""


def read_ready(body: Mapping[str, Any], variants: int, took_ns: int) -> Ready:
    """Reads the body of READY. `variants`: how many there are. `took_ns`: how long the load has taken.

    Raises an exception that says what is wrong, where anything is.
    """
    signature = Signature.model_validate(body["signature"])
    _check_signature(signature)
    for area in ("input_bytes", "output_bytes"):
        if type(body[area]) is not int or body[area] < 1:
            raise ValueError(f"{area} is {str(body[area])[:40]}")
    read = [_variant(variant, signature, took_ns) for variant in body["variants"]]
    if len(read) != variants:
        raise ValueError(f"{len(read)} variants of {variants}")
    costs = FrameCosts(signature, body.get("sizes", {}), took_ns)
    rows = _rows(body.get("rows", []), signature)
    memory = body.get("memory_bytes_max", 0)
    if type(memory) is not int or memory < 0:
        raise ValueError(f"a limit of memory of {str(memory)[:40]} bytes")
    notes = tuple(words(note, NOTE_CHARS_MAX) for note in body["notes"][:NOTES_MAX])
    return Ready(signature, read, costs, memory, rows, notes)


def read_files(body: Mapping[str, Any]) -> dict[str, FileDigest]:
    """Reads the body of FILES. Raises an exception that says what is wrong, where anything is."""
    digests = {}
    for name, (sha256, size) in body.items():
        if len(name) > NAME_CHARS_MAX or not isinstance(sha256, str) or len(sha256) > 64 or type(size) is not int:
            raise ValueError(f"a file {name[:NAME_CHARS_MAX]!r} with a digest that is none")
        digests[words(name, NAME_CHARS_MAX)] = FileDigest(words(sha256, 64), size)
    return digests


@dataclass(frozen=True, slots=True)
class Progress:
    """What a worker does while it loads a model."""

    doing: str
    """In words, such as "TensorrtExecutionProvider compiles model.onnx"; empty: nothing to speak of."""
    builds: bool
    """Whether a compiler is at work."""
    expected_s: float
    """How long that took before; 0: nobody knows."""
    since_s: float
    """Since when, on the event loop's clock."""

    def told(self, now_s: float) -> str:
        """Says it for people, with how long it has taken; empty: there is nothing to say."""
        if not self.doing:
            return ""
        before = f"; it took {self.expected_s:.0f} s before" if self.expected_s else ""
        return f"{self.doing}, for {max(0.0, now_s - self.since_s):.0f} s so far{before}"


def read_progress(body: Mapping[str, Any], now_s: float) -> Progress:
    """Reads the body of PROGRESS. Raises an exception that says what is wrong, where anything is."""
    expected_s = float(body["expected_s"])
    if not 0 <= expected_s < EXPECTED_SECONDS_MAX:
        raise ValueError(f"an engine that is to take {expected_s} s")
    return Progress(words(str(body["doing"]), DOING_CHARS_MAX), body["builds"] is True, expected_s, now_s)


def read_reason(body: Mapping[str, Any]) -> str:
    """Reads why a model can't be loaded, from the body of LOAD_FAILED."""
    return words(body.get("reason", "the worker gave no reason"), REASON_CHARS_MAX)


def _rows(body: Sequence[Any], signature: Signature) -> tuple[Row, ...]:
    rows = tuple((str(datatype), tuple(shape)) for datatype, shape in body[: len(signature.inputs) + 1])
    if rows and len(rows) != len(signature.inputs):
        raise ValueError("rows that are not those of the inputs")
    for datatype, shape in rows:
        sane = all(type(extent) is int and -1 <= extent < 1 << 31 for extent in shape)
        if datatype not in ELEMENT_BYTES or len(shape) > channel.DIMS_MAX or not sane:
            raise ValueError(f"a row of {datatype[:40]} and shape {str(shape)[:100]}")
    return rows


def _check_signature(signature: Signature) -> None:
    specs = (*signature.inputs, *signature.outputs)
    if not signature.inputs or any(spec.bytes_max < 0 or len(spec.shape) > channel.DIMS_MAX for spec in specs):
        raise ValueError("no inputs, or a tensor of a size that is none")
    for spec in signature.states:
        if min(spec.shape, default=0) < 0 or spec.bytes_max != prod(spec.shape) * ELEMENT_BYTES[spec.datatype]:
            raise ValueError(f"a state of {spec.bytes_max} bytes and shape {str(spec.shape)[:100]}")
    sizes = signature.batch_sizes
    batch_max = channel.frames_of_message(max(len(signature.inputs), len(signature.outputs)))
    if not sizes or list(sizes) != sorted(set(sizes)) or not 1 <= sizes[0] <= sizes[-1] <= batch_max:
        raise ValueError(f"batches of {str(sizes)[:100]}, which should rise from 1 to {batch_max} at most")


def _variant(body: Mapping[str, Any], signature: Signature, took_ns: int) -> WarmVariant:
    samples_ns = {int(size): tuple(times[-WINDOW:]) for size, times in body["samples_ns"].items()}
    if not all(samples_ns.values()) or samples_ns.keys() != set(signature.batch_sizes):
        raise ValueError("a batch size without a time")
    times_ns = [time_ns for times in samples_ns.values() for time_ns in times]
    if not all(type(time_ns) is int and time_ns > 0 for time_ns in times_ns):
        raise ValueError("a time that is no positive number of nanoseconds")
    if sum(times_ns) > took_ns:
        raise ValueError(f"times of {sum(times_ns)} ns in all, while the whole load took {took_ns} ns")
    warm_after_ns = body["warm_after_ns"]
    if type(warm_after_ns) is not int or warm_after_ns < 0 or 0 < warm_after_ns < WARM_AFTER_NS_MIN:
        raise ValueError(f"a lane that is to be warmed after {str(warm_after_ns)[:40]} ns")
    providers = tuple(words(name, NAME_CHARS_MAX) for name in body["providers"][:PROVIDERS_MAX])
    return WarmVariant(samples_ns, bool(body["any_size"]), providers, warm_after_ns)
