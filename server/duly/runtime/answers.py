"""Reads the answers of workers, and rejects those that can't be true.

A worker runs native code on graphs that somebody else made, so its word is taken only where it can be true. Whatever is
wrong with an answer is wrong with the worker, which can't be asked again, so that there is one error for all of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from duly.models.spec import ELEMENT_BYTES, Signature
from duly.runtime.outcome import Output
from duly.runtime.worker_port import BatchResult, NoRoom
from duly.worker import channel
from duly.worker.slot_layout import layout

REASON_CHARS_MAX = 4000
"""The longest reason of a failed batch. The worker itself keeps to the same limit when a model can't be loaded."""


class BrokenAnswer(Exception):
    """The answer of a worker can't be true. The text says why, for the log."""


class DeviceGone(Exception):
    """The worker says that the device of its lane is lost. The text says why, for clients."""


@dataclass(slots=True)
class Asked:
    """The batch that a worker runs."""

    batch_id: int
    slot: int
    size: int
    """Number of frames; 0 where the lane is only warmed."""
    asked_ns: int


class Answers:
    """Reads the answers of one worker."""

    def __init__(self, signature: Signature, region: channel.Region) -> None:
        """Raises BrokenAnswer where the outputs have no room in the region."""
        self._region = region
        self._elements = [ELEMENT_BYTES[spec.datatype] for spec in signature.outputs]
        self._texts = [spec.is_text for spec in signature.outputs]
        self._fixed = [
            spec.shape if -1 not in spec.shape and prod(spec.shape) * size == spec.bytes_max else None
            for spec, size in zip(signature.outputs, self._elements, strict=True)
        ]
        """For each output, its shape if that is fixed and fills the output's room exactly, else None."""
        self._guards = signature.guards
        self._sizes = signature.batch_sizes
        self._bytes_max = [spec.bytes_max for spec in signature.outputs]
        self._bases, needed = layout(self._bytes_max, max(signature.batch_sizes))
        if needed > region.output_bytes:
            raise BrokenAnswer(f"its region has {region.output_bytes} bytes for outputs that take {needed}")

    def read(self, message: bytes, asked: Asked | None, now_ns: int) -> BatchResult | NoRoom | str:
        """Returns the result of the batch that was `asked` for, or the worker's reason why the batch failed.

        Raises BrokenAnswer, and DeviceGone.
        """
        if asked is None:
            raise BrokenAnswer("an answer though nothing runs")
        try:
            kind = channel.kind_of(message)
            if kind == channel.FAILED:
                return self._failure(message, asked)
            if kind != channel.DONE:
                raise BrokenAnswer(f"a message of kind {kind}")
            done = channel.decode_done(message, len(self._bases))
        except (ValueError, RecursionError) as error:
            raise BrokenAnswer(f"a message that can't be read: {error}") from error
        _check(done, asked, now_ns)
        result = BatchResult(
            done.started_ns, done.finished_ns, self._copier(done), read_ns=done.read_ns, hollow=done.hollow
        )
        if sum(done.read_ns) > done.finished_ns - done.started_ns:
            raise BrokenAnswer(f"reading took {sum(done.read_ns)} ns of {done.finished_ns - done.started_ns}")
        ends = list(self._bases)
        for index, (status, refs) in enumerate(done.frames):
            if status == channel.OK:
                self._check_places(index, refs, ends)
            elif index in done.reasons:
                reason = words(done.reasons[index], REASON_CHARS_MAX)
                (result.invalid if status == channel.INVALID else result.failed)[index] = reason
            else:
                raise BrokenAnswer(f"frame {index} did not run, and no reason is given")
        if done.flags is not None:
            result.guards = {index: self._found(index, flags) for index, flags in done.flags.items()}
        if len(done.reasons) != len(result.invalid) + len(result.failed):
            raise BrokenAnswer("a reason for a frame that ran, or is not there")
        return result

    def _failure(self, message: bytes, asked: Asked) -> NoRoom | str:
        batch_id, body = channel.decode_text(message)
        reason = body.get("reason")
        if batch_id != asked.batch_id or not isinstance(reason, str):
            raise BrokenAnswer(
                f"the failure of batch {batch_id} while batch {asked.batch_id} runs, reason {reason!r:.100}"
            )
        if body.get("lost") is True:
            raise DeviceGone(words(reason, REASON_CHARS_MAX))
        size_max = body.get("size_max")
        if size_max is None:
            return words(reason, REASON_CHARS_MAX)
        sane = type(size_max) is int and size_max < asked.size and (size_max == 0 or size_max in self._sizes)
        if not sane:
            raise BrokenAnswer(f"batches of {str(size_max)[:40]} at the most, after one of {asked.size} has failed")
        return NoRoom(words(reason, REASON_CHARS_MAX), size_max)

    def _found(self, index: int, flags: int) -> tuple[str, ...]:
        """Returns the names of the guards that found something on a frame."""
        if flags >> len(self._guards):
            raise BrokenAnswer(f"frame {index} has flags {flags:#x}, and the model has {len(self._guards)} guards")
        return tuple([name for place, name in enumerate(self._guards) if flags & 1 << place])

    def _check_places(self, index: int, refs: Sequence[channel.TensorRef], ends: list[int]) -> None:
        """Checks that each output lies behind those of the frames before it and does not reach beyond its own place, so
        that no frame gets another's. `ends` has for each output where the last one ended, and is updated here.
        """
        for output, (offset, length, encoding, shape) in enumerate(refs):
            bytes_max = self._bytes_max[output]
            # Almost always the output is as the signature says, which is quicker to see.
            if length != bytes_max or shape != self._fixed[output] or encoding:
                self._check_shape(output, length, encoding, shape)
            end = offset + length
            if offset < ends[output] or end > self._bases[output] + (index + 1) * bytes_max:
                raise BrokenAnswer(f"output {output} of frame {index} lies at {offset}, which is not its place")
            ends[output] = end

    def _check_shape(self, output: int, length: int, encoding: int, shape: tuple[int, ...]) -> None:
        sane = encoding == 0 and min(shape, default=0) >= 0
        needed = prod(shape) * self._elements[output]  # of text the least, as each element has a length before it
        fits = length == needed or (self._texts[output] and length > needed > 0)
        if not sane or not fits or length > self._bytes_max[output]:
            raise BrokenAnswer(f"output {output} of a frame has {length} bytes and shape {list(shape)}")

    def _copier(self, done: channel.Done) -> Callable[[int], list[Output]]:
        area = self._region.outputs[done.slot]

        def outputs(index: int) -> list[Output]:
            copied: list[Output] = []
            for offset, length, _, shape in done.frames[index][1]:
                copied.append((len(copied), shape, bytes(area[offset : offset + length])))
            return copied

        return outputs


def words(said: object, chars_max: int) -> str:
    """Returns the beginning of what a worker said as text that can be sent and logged: JSON can hold half characters,
    which no encoding takes.
    """
    return str(said)[:chars_max].encode(errors="replace").decode()


def _check(done: channel.Done, asked: Asked, now_ns: int) -> None:
    """Checks that the message answers what was asked, at times that are possible. Raises BrokenAnswer."""
    if (done.batch_id, done.slot, len(done.frames)) != (asked.batch_id, asked.slot, asked.size):
        raise BrokenAnswer(
            f"batch {done.batch_id} of {len(done.frames)} frames in slot {done.slot}, while batch {asked.batch_id} of "
            f"{asked.size} in slot {asked.slot} runs"
        )
    if not asked.asked_ns <= done.started_ns <= done.finished_ns <= now_ns:
        raise BrokenAnswer(
            f"started {done.started_ns - asked.asked_ns} ns after it was asked, finished "
            f"{done.finished_ns - done.started_ns} ns later, {now_ns - done.finished_ns} ns ago"
        )
