"""How large things may be, worked out in one place when a model is loaded.

A frame passes several limits on its way: what one message of the transport holds, what a stream, a principal and the
server may leave unanswered, and the shared memory in which its batch runs. Its results pass the limit of a message
again. `settle` brings what a model's inputs and outputs ask for together with all of these.

- What has a fixed size and does not fit is a SizeError, which names the setting to raise and its value.
- What is of open size gets as much room as the limits leave. Where that is less than was asked for, a note says so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from duly.models.spec import TensorSpec
from duly.settings import BYTES_IN_FLIGHT, PAYLOAD_BYTES, option_name

WIRE_BYTES_MAX = 2**31 - 1
"""No message can be larger: protobuf refuses it, and gRPC counts the bytes of a message in 32 bits with a sign."""
INPUT_BYTES_MAX = 8 << 20
"""Room for one frame of an input whose size is open, where model.toml states none and the limits leave so much."""
ENCODED_BYTES_MAX = 40 << 20
"""The same for encoded pictures and sound: any picture of twelve million pixels fits as PNG."""
OUTPUT_BYTES_MAX = 64 << 20
OUTPUT_TIMES_INPUT = 16
"""Room for one frame of an output whose size is open: OUTPUT_TIMES_INPUT times the bytes of the largest frame, which a
graph needs that enlarges pictures four times, and at least OUTPUT_BYTES_MAX. It is no memory until it is written to."""
MEMORY_PARTS = 2
"""The shared memory of a worker may grow to one of so many parts of the machine's memory by what is of open size."""

_FIELDS_BYTES = 4096
_TENSOR_FIELDS_BYTES = 160
"""A message with one frame takes less than this besides its tensors, and a tensor less besides its name and data."""


class SizeError(Exception):
    """A model cannot be served at any size. The text names what is too large and what would help."""


class SizeLimits(BaseModel):
    """What bounds the payload of one frame, in bytes, by the names of the server's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes_in_flight_max: int = BYTES_IN_FLIGHT
    payload_bytes_max: int = PAYLOAD_BYTES
    principal_bytes_in_flight_max: int = 0
    """0 where there is no such limit."""
    message_bytes_max: int = 0
    """The largest message that the transport reads; 0: it is not up yet, and will read what the models need."""

    @property
    def settings(self) -> dict[str, int]:
        """The settings that bound a frame, with their values, the smallest first."""
        values = {name: value for name, value in self if name != "message_bytes_max" and value}
        return dict(sorted(values.items(), key=lambda entry: entry[1]))

    @property
    def frame_bytes_max(self) -> int:
        """Payload bytes of the largest frame that the settings let in, whatever model it is for."""
        return min(self.settings.values())

    def message_bytes(self, inputs: Iterable[TensorSpec]) -> int:
        """Returns the size of the largest message with one frame of a model with these inputs."""
        specs = tuple(inputs)
        payload = min(self.frame_bytes_max, sum(spec.bytes_max for spec in specs))
        return payload + fields_bytes(spec.name for spec in specs)

    def raised(self, needed: int) -> str:
        """Says which settings have to be raised for `needed` bytes, and to what."""
        low = [name for name, value in self.settings.items() if value < needed]
        return "raise " + " and ".join(f"{name} ({option_name(name)})" for name in low) + f" to at least {needed}"


@dataclass(frozen=True, slots=True)
class Need:
    """What one input or output asks for, for one frame."""

    name: str
    fixed_bytes: int | None = None
    """Its size where that is fixed; None: it is open."""
    stated_bytes: int = 0
    """Its `bytes_max` in model.toml; 0: none is stated."""
    encoded: bool = False
    """Whether clients may send it encoded."""
    per_input_byte: tuple[int, float] | None = None
    """For an output whose open extents are those of an input: (index of the input, bytes for each byte of it)."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What was settled."""

    inputs: tuple[int, ...]
    """Bytes of the largest payload of each input."""
    outputs: tuple[int, ...]
    """Bytes of the largest result of each output."""
    notes: tuple[str, ...] = ()
    """What the operator should know: where there is less room than was asked for, and what would give more."""


def fields_bytes(names: Iterable[str]) -> int:
    """Returns a bound on what a message with one frame of tensors with these names takes besides their data."""
    return _FIELDS_BYTES + sum(_TENSOR_FIELDS_BYTES + len(name.encode()) for name in names)


def settle(
    inputs: Sequence[Need], outputs: Sequence[Need], batch_max: int, slots: int, limits: SizeLimits, memory_bytes: int
) -> Sizes:
    """Settles how much room each input and output of a model gets.

    Args:
        inputs: what the inputs ask for, for one frame.
        outputs: what the outputs ask for, for one frame.
        batch_max: frames of the largest batch.
        slots: batches that the shared memory holds.
        limits: what bounds a frame.
        memory_bytes: the memory that this process may use.

    Raises:
        SizeError: the model cannot be served at any size.
    """
    notes: list[str] = []
    frame = _Frame(inputs, limits)
    rooms = frame.rooms(notes)
    results = _results(outputs, rooms, frame.bytes_max, notes)
    memory = _Memory(batch_max, slots, memory_bytes)
    both = memory.lowered(inputs, outputs, [*rooms, *results], notes)
    if all(need.fixed_bytes is not None for need in inputs):
        notes += _few_frames(sum(rooms), batch_max, limits)
    return Sizes(tuple(both[: len(inputs)]), tuple(both[len(inputs) :]), tuple(notes))


def _shared(needs: Sequence[Need], defaults: Sequence[int], limit: int) -> list[int]:
    """Returns the room of each, where fixed sizes leave something of `limit` bytes. Of that, each stated size gets what
    it asks for, as frames need not fill all their inputs at once; what is not stated shares the rest, or half.
    """
    left = limit - _fixed(needs)
    stated = sum(min(need.stated_bytes, left) for need in needs if need.fixed_bytes is None)
    usual = [
        default
        for need, default in zip(needs, defaults, strict=True)
        if need.fixed_bytes is None and not need.stated_bytes
    ]
    shared = max(left - stated, left // 2)
    part = left if sum(usual) <= shared else shared // len(usual)
    rooms = []
    for need, default in zip(needs, defaults, strict=True):
        asked, most = (need.stated_bytes, left) if need.stated_bytes else (default, part)
        rooms.append(max(1, min(asked, most)) if need.fixed_bytes is None else need.fixed_bytes)
    return rooms


def _fixed(needs: Iterable[Need]) -> int:
    return sum(need.fixed_bytes or 0 for need in needs)


class _Frame:
    """What comes in: a frame against the settings and the size of a message."""

    def __init__(self, inputs: Sequence[Need], limits: SizeLimits) -> None:
        """Raises SizeError where no frame fits."""
        self._inputs = inputs
        self._limits = limits
        self._fields = fields_bytes(need.name for need in inputs)
        message = (limits.message_bytes_max or WIRE_BYTES_MAX) - self._fields
        self.bytes_max = min(limits.frame_bytes_max, message)
        """Payload bytes of the largest frame that can be taken."""
        open_ = sum(1 for need in inputs if need.fixed_bytes is None)
        least = _fixed(inputs) + open_
        if least > self.bytes_max:
            what = "a frame has at least" if open_ else "a frame has"
            raise SizeError(f"{what} {least:,} bytes, at most {self.bytes_max:,} can be taken: {self._remedy(least)}")

    def rooms(self, notes: list[str]) -> list[int]:
        defaults = [ENCODED_BYTES_MAX if need.encoded else INPUT_BYTES_MAX for need in self._inputs]
        rooms = _shared(self._inputs, defaults, self.bytes_max)
        wanted = [need.fixed_bytes or need.stated_bytes or room for need, room in zip(self._inputs, rooms, strict=True)]
        if sum(wanted) > self.bytes_max:
            notes.append(
                f"its largest frame would have {sum(wanted):,} bytes, more than {self.bytes_max:,} are INVALID: "
                f"{self._remedy(sum(wanted))}, or lower bytes_max of [[input]]"
            )
        notes += self._crowded(rooms, defaults)
        return rooms

    def _crowded(self, rooms: Sequence[int], defaults: Sequence[int]) -> list[str]:
        """Says where inputs of open size for which nothing is stated have less room than is usual."""
        small = [
            index
            for index, need in enumerate(self._inputs)
            if need.fixed_bytes is None and not need.stated_bytes and rooms[index] < defaults[index]
        ]
        if not small:
            return []
        first = small[0]
        if len(small) > 1:
            return [
                f"{len(small)} inputs of open size share what a frame may have, {rooms[first]:,} bytes for each: "
                "set bytes_max under [[input]] for those that need more"
            ]
        needed = sum(rooms) - rooms[first] + defaults[first]
        return [
            f"input '{self._inputs[first].name}' has room for {rooms[first]:,} bytes a frame, for the usual "
            f"{defaults[first]:,} {self._remedy(needed)}"
        ]

    def _remedy(self, needed: int) -> str:
        """Says what lets frames of `needed` bytes in."""
        if needed + self._fields > WIRE_BYTES_MAX:
            return f"no message holds more than {WIRE_BYTES_MAX - self._fields:,}"
        if needed > self._limits.frame_bytes_max:
            return self._limits.raised(needed)
        return "restart the server, whose transport reads what the models needed at its start"


def _results(outputs: Sequence[Need], rooms: Sequence[int], frame_bytes: int, notes: list[str]) -> list[int]:
    """What goes out: the results of a frame against the size of a message."""
    limit = WIRE_BYTES_MAX - fields_bytes(need.name for need in outputs)
    fixed = _fixed(outputs)
    if fixed > limit:
        raise SizeError(
            f"the outputs of a frame have {fixed:,} bytes, no message holds more than {limit:,}: name those that "
            "clients need under [[output]], or export the graph with smaller ones"
        )
    generous = max(OUTPUT_BYTES_MAX, OUTPUT_TIMES_INPUT * min(sum(rooms), frame_bytes))
    defaults = []
    for need in outputs:
        index, ratio = need.per_input_byte or (0, 0.0)
        defaults.append(max(generous, int(rooms[index] * ratio) + 1))
    results = _shared(outputs, defaults, limit)
    for need, room in zip(outputs, results, strict=True):
        if need.fixed_bytes is None and need.stated_bytes > room:
            notes.append(
                f"output '{need.name}' has room for {room:,} bytes a frame and not for its bytes_max, "
                f"{need.stated_bytes:,}: no message holds more than {limit:,}"
            )
    return results


class _Memory:
    """The shared memory of a worker against the memory of the machine."""

    def __init__(self, batch_max: int, slots: int, memory_bytes: int) -> None:
        self._batch_max = batch_max
        self._slots = slots
        self._bytes = memory_bytes

    def lowered(
        self, inputs: Sequence[Need], outputs: Sequence[Need], rooms: Sequence[int], notes: list[str]
    ) -> list[int]:
        """Lowers what is of open size until all of it fits, first the outputs for which nothing is stated. `rooms`: of
        the inputs, then of the outputs. Raises SizeError.
        """
        needs = [*inputs, *outputs]
        frames = self._batch_max * self._slots
        fixed = _fixed(needs)
        if fixed * frames > self._bytes:
            raise SizeError(
                f"batch_sizes: the shared memory for {self._slots} batches of {self._batch_max} needs "
                f"{fixed * frames:,} bytes, this process may use {self._bytes:,}: {self._smaller(fixed)}"
            )
        left = max(self._bytes // MEMORY_PARTS // frames, fixed + (self._bytes // frames - fixed) // MEMORY_PARTS)
        open_ = [index for index, need in enumerate(needs) if need.fixed_bytes is None]
        spare = [index for index in open_ if index >= len(inputs) and not needs[index].stated_bytes]
        lowered = list(rooms)
        for indices, least in ((spare, left // 2), (open_, 0)):
            asked, excess = sum(lowered[index] for index in indices), sum(lowered) - left
            if excess > 0 and asked > least:
                part = max(asked - excess, least)
                for index in indices:
                    lowered[index] = max(1, lowered[index] * part // asked)
        for index, need in enumerate(needs):
            if lowered[index] < rooms[index] and (need.stated_bytes or index < len(inputs)):
                notes.append(
                    f"'{need.name}' has room for {lowered[index]:,} bytes a frame and not for {rooms[index]:,}, since "
                    f"the shared memory for {self._slots} batches of {self._batch_max} may take {left * frames:,} "
                    "bytes of this machine's memory: lower batch_sizes, or bytes_max of other inputs and outputs"
                )
        return lowered

    def _smaller(self, fixed: int) -> str:
        largest = self._bytes // (fixed * self._slots)
        return f"set batch_sizes to at most [{largest}]" if largest else "export the graph with smaller tensors"


def _few_frames(frame_bytes: int, batch_max: int, limits: SizeLimits) -> list[str]:
    """Says where the limits hold a frame, but too few of them."""
    notes = []
    if limits.frame_bytes_max < 2 * frame_bytes:
        notes.append(
            f"a stream may have one frame of {frame_bytes:,} bytes unanswered, and what comes meanwhile is SHED: "
            f"{limits.raised(2 * frame_bytes)}"
        )
    if limits.payload_bytes_max < batch_max * frame_bytes:
        notes.append(
            f"batches of {batch_max} frames of {frame_bytes:,} bytes never fill: raise payload_bytes_max "
            f"({option_name('payload_bytes_max')}) to at least {batch_max * frame_bytes}, or lower batch_sizes"
        )
    return notes
