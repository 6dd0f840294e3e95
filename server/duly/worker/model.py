"""A loaded model takes one batch at a time out of the region, runs it, and puts the results into the region.

Frames are judged one by one: a frame that cannot be run is taken out of the batch with a reason, and the others run.
Where rows have a fixed size, the graph reads and writes warm buffers that are bound once for each slot and batch size.
Inputs that clients send as the graph takes them, and outputs of fixed size, are bound to the region itself and are
never copied.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from time import monotonic_ns

import numpy as np

from duly.models.sizes import WIRE_BYTES_MAX, fields_bytes
from duly.models.spec import TEXT_ELEMENTS_MAX, VIDEO, TensorSpec
from duly.worker.all_finite import all_finite
from duly.worker.batch_axes import BoundBatch, Placed, Session
from duly.worker.channel import ENCODINGS, FRAME_FAILED, INVALID, NONE_STAGED, OK, ROW, Done, Region, Run, TensorRef
from duly.worker.controls import Controls
from duly.worker.decode import not_finite, tensor
from duly.worker.dtypes import TEXT, Array, view
from duly.worker.errors import DeviceFull, DeviceLost, InvalidFrame, RunError
from duly.worker.finite import HOLLOW_BATCHES, FiniteChecks
from duly.worker.graph import is_fixed
from duly.worker.guards import GuardWatch
from duly.worker.handed_state import Place
from duly.worker.input_copies import InputCopies
from duly.worker.look import look_of_row
from duly.worker.ops.operation import WHOLE_PICTURE, Placement
from duly.worker.plan import Plan
from duly.worker.shared_frames import UNREAD
from duly.worker.slot_layout import layout
from duly.worker.states import StreamStates
from duly.worker.text import write_texts
from duly.worker.video import VideoDecoders


@dataclass(slots=True)
class _Bound:
    """The buffers of one batch size in one slot."""

    binding: BoundBatch
    outputs: dict[str, Array]
    """The graph outputs with a fixed size, by name."""
    states_in: list[Array]
    states_out: list[Array]
    controls: dict[str, Array]


@dataclass(slots=True)
class _Batch:
    """A batch on its way. All tables are by the frame's index in the batch."""

    run: Run
    reasons: dict[int, str] = field(default_factory=dict)
    """Why frames are not OK."""
    failed: set[int] = field(default_factory=set)
    """The frames that the graph failed on, and those whose outputs have no room."""
    values: dict[int, list[Array]] = field(default_factory=dict)
    """One row for each input, where rows have no fixed size."""
    placements: dict[int, Placement] = field(default_factory=dict)
    contexts: dict[int, dict[int, Array]] = field(default_factory=dict)
    """The end of the frame's sound, by input."""
    results: dict[int, list[TensorRef]] = field(default_factory=dict)
    states: dict[int, tuple[int, list[Array]]] = field(default_factory=dict)
    """The frame's new state is this row of each of these arrays."""
    read_ns: list[int] = field(default_factory=list)
    """How long reading each frame took, where anything is decoded."""
    not_finite: int = 0
    """Frames whose outputs are not finite."""


class _OutputTooLarge(Exception):
    """An output is larger than its place."""


class Model:
    """One variant of a model on one lane, with the memory of its streams. All calls come from one thread."""

    def __init__(
        self,
        plan: Plan,
        session: Session,
        region: Region,
        finite: FiniteChecks | None = None,
        copies: InputCopies | None = None,
    ) -> None:
        """`finite`: checks what the graph gives, once `serve` has been called; None: nothing is checked. `copies`:
        brings inputs to the device; None: the session does.
        """
        self._plan = plan
        self._session = session
        self._region = region
        self._batch_max = plan.batch_sizes[-1]
        signature = plan.signature()
        self._input_specs = signature.inputs
        self._output_specs = signature.outputs
        self._input_bases, _ = layout([spec.bytes_max for spec in signature.inputs], self._batch_max)
        self._output_bases, _ = layout([spec.bytes_max for spec in signature.outputs], self._batch_max)
        self._posts = len(plan.post.specs) if plan.post else 0
        self._stateful = signature.stateful
        self._decodes = any(spec.pixels_max for spec in signature.inputs)
        self._state_bytes = signature.state_bytes
        self._streams = StreamStates(
            plan.states,
            contexts={index: each.reader.dtype for index, each in enumerate(plan.inputs) if each.reader.context},
            context_sizes={index: each.reader.context for index, each in enumerate(plan.inputs)},
        )
        self._controls = Controls(plan.controls)
        self._videos = VideoDecoders()
        self._fixed = plan.fixed
        self._as_is = [plan.fixed and planned.reader.as_is for planned in plan.inputs]
        self._copies_in = copies
        self._in_place = [plan.fixed and output.bindable for output in plan.outputs]
        self._rows = self._input_rows() if plan.fixed else []
        self._bound: dict[tuple[int, int, int], _Bound] = {}
        """The keys are slot, batch size and first row."""
        self._results_bytes_max = WIRE_BYTES_MAX - fields_bytes(spec.name for spec in signature.outputs)
        """What all outputs of a frame may have together."""
        self._results_may_exceed = sum(spec.bytes_max for spec in signature.outputs) > self._results_bytes_max
        self._guarded = GuardWatch(plan.guards) if plan.guards.names else None
        self._guards: GuardWatch | None = None
        self._finite = finite
        self._checks: FiniteChecks | None = None
        self._own_frame_fails: Callable[[int], bool] = lambda slot: False
        self._hollow_batches = 0
        self._trims = not all(output.sized for output in plan.outputs)
        self._copies = [self._copy_texts if spec.is_text else self._copy for spec in signature.outputs]

    def run(self, run: Run, unread: Collection[int] = ()) -> Done:
        """Runs one batch. `unread`: frames, by index, whose inputs could not be read.

        Raises:
            RunError: the graph failed on it. States are as before, except those that were to be reset. It is DeviceFull
                where nothing of the batch ran for want of memory.
        """
        started_ns = monotonic_ns()
        batch = _Batch(run)
        if len(run.frames) > self._batch_max:
            raise RunError(f"a batch of {len(run.frames)} is larger than {self._batch_max}, the largest warmed")
        if self._trims:
            self._region.trim(run.slot, outputs=True)
        self._read(batch, unread)
        kept = [index for index in range(len(run.frames)) if index not in batch.reasons]
        groups = self._groups(batch, kept) if kept else []
        full = 0
        for group in groups:
            first = group[0] if self._plan.apart else 0
            try:
                self._run_fixed(batch, group, first) if self._fixed else self._run_free(batch, group)
            except RunError as error:
                full += isinstance(error, DeviceFull)
                if len(groups) in (1, full) or isinstance(error, DeviceLost):
                    raise
                batch.failed.update(group)  # frames of other groups are not in the same run
                batch.reasons.update(dict.fromkeys(group, str(error)))
        for index, (row, states) in batch.states.items():
            self._streams.remember(run.frames[index][0], row, states, batch.contexts.get(index, {}))
        frames = [self._outcome(batch, index) for index in range(len(run.frames))]
        finished_ns = monotonic_ns()
        hollow = self._checks is not None and self._is_hollow(batch, len(run.frames))
        flags = None if self._guards is None else self._guards.found
        return Done(
            run.batch_id, run.slot, started_ns, finished_ns, frames, batch.reasons, batch.read_ns, hollow, flags
        )

    def serve(self, own_frame_fails: Callable[[int], bool]) -> None:
        """Notes that the warm-up is over: from now on what the graph gives is checked, and guards look at frames.
        `own_frame_fails(slot)` runs a made-up frame in that slot and says whether it is FAILED.
        """
        self._checks = self._finite
        self._guards = self._guarded
        self._own_frame_fails = own_frame_fails

    def _is_hollow(self, batch: _Batch, frames: int) -> bool:
        """Whether nothing that the graph gives is finite any more."""
        if not batch.not_finite:
            self._hollow_batches = 0
        elif batch.not_finite == frames:
            self._hollow_batches += 1
        if self._hollow_batches < HOLLOW_BATCHES:
            return False
        self._hollow_batches = -1  # the made-up frame is a batch as well
        # This slot holds no results, as no frame has any, and the server may be filling the other one.
        hollow = self._own_frame_fails(batch.run.slot)
        self._hollow_batches = 0
        return hollow

    def forget(self, stream_ids: Sequence[int]) -> None:
        """Drops what is remembered of these streams."""
        for stream_id in stream_ids:
            self._streams.forget(stream_id)
            self._videos.forget(stream_id)
            if self._guards is not None:
                self._guards.forget(stream_id)

    def give_states(self, places: Sequence[Place], fd: int) -> list[bool]:
        """Writes what is remembered of these streams to their places in the memory, and forgets it. Returns which of
        them something was remembered of.
        """
        there = []
        for stream_id, offset in places:
            data = self._streams.give(stream_id)
            there.append(data is not None and os.pwrite(fd, data, offset) == len(data))
        return there

    def take_states(self, places: Sequence[Place], fd: int) -> None:
        """Remembers what another worker has written there. Raises ValueError where it is no state of this model."""
        for stream_id, offset in places:
            self._streams.take(stream_id, os.pread(fd, self._state_bytes, offset))

    # ---- from the region to rows ----

    def _input_rows(self) -> list[list[Array]]:
        """Returns for each slot one array [batch_max, ...] an input, the region itself where payloads are rows."""
        shapes = [(self._batch_max, *planned.reader.row_shape) for planned in self._plan.inputs]
        readers = [planned.reader for planned in self._plan.inputs]
        own = [None if r.as_is else np.zeros(shape, r.dtype) for r, shape in zip(readers, shapes, strict=True)]
        return [
            [
                view(area, base, shape, reader.dtype) if buffer is None else buffer
                for buffer, base, shape, reader in zip(own, self._input_bases, shapes, readers, strict=True)
            ]
            for area in self._region.inputs
        ]

    def _read(self, batch: _Batch, unread: Collection[int]) -> None:
        run = batch.run
        area = self._region.inputs[run.slot]
        guards = self._guards
        if guards is not None:
            guards.begin()
        began_ns = monotonic_ns() if self._decodes else 0
        for index, (stream_id, reset, refs) in enumerate(run.frames):
            if reset:
                self._streams.forget(stream_id)
                if guards is not None:
                    guards.forget(stream_id)
            try:
                for position, ref in enumerate(refs):
                    self._read_input(batch, area, index, stream_id, position, ref)
            except InvalidFrame as error:
                batch.reasons[index] = str(error)
            if index in unread:
                batch.reasons[index] = UNREAD
                batch.failed.add(index)
            if self._decodes:
                ended_ns = monotonic_ns()
                batch.read_ns.append(ended_ns - began_ns)
                began_ns = ended_ns
        if guards is not None:
            for index in unread:
                guards.found.pop(index, None)  # what was looked at is not what the client sent
            for index, reason in guards.refused.items():
                batch.reasons.setdefault(index, reason)
        for position, spec in enumerate(self._input_specs):
            if spec.finite and self._as_is[position]:
                rows = self._rows[run.slot][position][: len(run.frames)]
                if not all_finite(rows):
                    for index, row in enumerate(rows):
                        if not all_finite(row):
                            batch.reasons.setdefault(index, not_finite(spec))

    def _read_input(
        self, batch: _Batch, area: memoryview, index: int, stream_id: int, position: int, ref: TensorRef
    ) -> None:
        spec = self._input_specs[position]
        offset, length, encoding, shape = ref
        if length > spec.bytes_max or offset != self._input_bases[position] + index * spec.bytes_max:
            raise InvalidFrame(f"input '{spec.name}': {length} bytes at {offset} are not where the frame's place is")
        if self._as_is[position]:
            if encoding or shape != spec.shape or length != spec.bytes_max:
                tensor(area[offset : offset + length], ENCODINGS[encoding], shape, spec)  # says what is wrong
            if self._guards is not None:
                look = self._guards.at(index, stream_id, position, area[offset : offset + length])
                if look is not None:
                    look(self._rows[batch.run.slot][position][index, ...])
            return
        reader = self._plan.inputs[position].reader
        payload, name = area[offset : offset + length], ENCODINGS[encoding]
        row = self._rows[batch.run.slot][position][index, ...] if self._fixed else None
        context = self._streams.context(stream_id, position) if reader.context else None
        guards, is_video = self._guards, name in VIDEO and name in spec.encodings
        look = None if guards is None else guards.at(index, stream_id, position, None if is_video else payload)
        if is_video:
            picture = self._videos.picture(stream_id, position, name, payload, spec)
            row, placement = reader.fill(picture, True, row, context, look)
        else:
            row, placement = reader.read(payload, name, shape, row, context, look)
            if guards is not None and encoding == ROW:
                guards.seen(index, stream_id, position, look_of_row(payload))
        if not self._fixed:
            batch.values.setdefault(index, []).append(row)
        if placement is not WHOLE_PICTURE:
            batch.placements.setdefault(index, placement)
        if reader.context:
            batch.contexts.setdefault(index, {})[position] = row[-reader.context :].copy()

    # ---- through the graph ----

    def _run_fixed(self, batch: _Batch, indices: list[int], first: int) -> None:
        """Runs frames whose rows lie one after another from row `first` of the slot on."""
        slot, size = batch.run.slot, self.size_of(len(indices))
        bound = self._bound.get((slot, size, first)) or self._bind(slot, size, first)
        self._streams.gather(self._ids(batch, indices), bound.states_in)
        self._controls.fill(bound.controls, batch.run, indices, self._streams)
        if self._copies_in is not None:
            all_run = len(indices) == len(batch.run.frames)  # else rows have moved since they were told of
            staged = batch.run.staged if all_run else NONE_STAGED
            self._copies_in.bring(slot, len(indices), staged, batch.run.stage_number)
        outputs = bound.outputs | bound.binding.run()
        self._deliver(batch, indices, first, size, outputs, bound.states_out)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The sizes of the warm-up, in order."""
        return self._plan.batch_sizes

    def size_of(self, count: int) -> int:
        """Returns how many rows a batch of `count` frames has; rows beyond the frames are padding."""
        if self._plan.any_size or self._plan.apart:
            return count
        return self._plan.batch_sizes[bisect_left(self._plan.batch_sizes, count)]

    def _bind(self, slot: int, size: int, first: int) -> _Bound:
        plan, last = self._plan, first + size
        inputs = {planned.tensor: rows[first:last] for planned, rows in zip(plan.inputs, self._rows[slot], strict=True)}
        states_in = [state.batch(size) for state in plan.states]
        states_out = [state.batch(size) for state in plan.states]
        controls = self._controls.batches(size)
        outputs: dict[str, Array | None] = {}
        if plan.post:
            shape = plan.post.row_shape
            outputs[plan.post.tensor] = np.zeros((size, *shape), plan.post.dtype) if is_fixed(shape) else None
        for index, output in enumerate(plan.outputs):
            position = self._posts + index
            base = self._output_bases[position] + first * self._output_specs[position].bytes_max
            outputs[output.tensor] = None
            if self._in_place[index]:
                area = self._region.outputs[slot]
                outputs[output.tensor] = view(area, base, (size, *output.row_shape), output.dtype)
        for watch in plan.guards.scores:
            outputs[watch.tensor] = np.zeros((size, *watch.row_shape), watch.dtype) if watch.bindable else None
        inputs |= {state.input: array for state, array in zip(plan.states, states_in, strict=True)}
        placed = None
        if self._copies_in is not None:
            places = self._copies_in.addresses(slot)
            placed = Placed(slot, {plan.inputs[position].tensor: address for position, address in places.items()})
        binding = self._session.bind(
            size,
            inputs | controls | plan.constants,
            outputs | {s.output: array for s, array in zip(plan.states, states_out, strict=True)},
            placed,
        )
        known = {name: array for name, array in outputs.items() if array is not None}
        bound = self._bound[slot, size, first] = _Bound(binding, known, states_in, states_out, controls)
        return bound

    def _groups(self, batch: _Batch, kept: list[int]) -> list[list[int]]:
        """Returns which frames run together. Where that is all of them and rows are fixed, they are moved together."""
        if self._plan.apart:
            return [[index] for index in kept]
        if not self._fixed:
            return self._alike(batch, kept)
        if len(kept) < len(batch.run.frames):
            for rows in self._rows[batch.run.slot]:
                rows[: len(kept)] = rows[kept]
        return [kept]

    def _alike(self, batch: _Batch, kept: list[int]) -> list[list[int]]:
        """Groups the frames whose rows have the same shapes, since those can run together."""
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for index in kept:
            groups.setdefault(tuple(row.shape for row in batch.values[index]), []).append(index)
        return list(groups.values())

    def _run_free(self, batch: _Batch, group: list[int]) -> None:
        plan = self._plan
        size = self.size_of(len(group))
        columns = zip(*(batch.values[index] for index in group), strict=True)
        inputs = {p.tensor: _stack(rows, size) for p, rows in zip(plan.inputs, columns, strict=True)}
        states = [state.batch(size) for state in plan.states]
        self._streams.gather(self._ids(batch, group), states)
        names = [output.tensor for output in plan.outputs]
        names += [plan.post.tensor] if plan.post and plan.post.tensor not in names else []
        names += [watch.tensor for watch in plan.guards.scores]
        inputs |= {state.input: array for state, array in zip(plan.states, states, strict=True)}
        controls = self._controls.batches(size)
        self._controls.fill(controls, batch.run, group, self._streams)
        outputs = self._session.run(inputs | controls | plan.constants, names + [state.output for state in plan.states])
        states_out = [outputs.pop(state.output) for state in plan.states]
        for state, before, after in zip(plan.states, states, states_out, strict=True):
            if before.shape != after.shape:
                raise RunError(f"state '{state.output}' has shape {list(after.shape)}, not {list(before.shape)}")
        self._deliver(batch, group, 0, size, outputs, states_out)

    def _ids(self, batch: _Batch, indices: list[int]) -> list[int]:
        return [batch.run.frames[index][0] for index in indices]

    # ---- from the graph to the region ----

    def _deliver(
        self, batch: _Batch, indices: list[int], first: int, size: int, outputs: dict[str, Array], states: list[Array]
    ) -> None:
        """Row r of `outputs` and `states` is the result of frame `indices[r]`; in the region it lies at `first` + r."""
        for name, array in outputs.items():
            if not array.ndim or len(array) != size:
                raise RunError(
                    f"output '{name}' of a batch of {size} has shape {list(array.shape)}; "
                    "its first dimension must be the batch: export the graph so"
                )
        faults = self._not_finite(batch, indices, outputs, states) if self._checks is not None else {}
        guards = self._guards
        if guards is not None:
            guards.scores(outputs, indices, self._ids(batch, indices))
        for row, index in enumerate(indices):
            if row in faults:
                batch.reasons[index] = faults[row]
                batch.failed.add(index)
                continue
            if guards is not None and index in guards.refused:
                batch.reasons[index] = guards.refused[index]
                continue
            if self._stateful and not self._streams.has_room(batch.run.frames[index][0]):
                batch.reasons[index] = "the worker keeps the state of as many streams as it may"
                batch.failed.add(index)
                continue
            try:
                batch.results[index] = self._put(batch, index, first, row, outputs)
            except _OutputTooLarge as error:
                batch.reasons[index] = str(error)
                batch.failed.add(index)
                continue
            if self._stateful:
                batch.states[index] = row, states

    def _not_finite(
        self, batch: _Batch, indices: list[int], outputs: dict[str, Array], states: list[Array]
    ) -> dict[int, str]:
        """Returns what to tell the clients of the rows that are not finite. A stream with such a state starts anew."""
        assert self._checks is not None
        faults = self._checks.outputs(outputs, len(indices))
        if states:
            axes = [state.batch_axis for state in self._plan.states]
            spoilt = self._checks.states(states, axes, len(indices))
            for row in spoilt:
                self._streams.forget(batch.run.frames[indices[row]][0])
            faults |= spoilt
        batch.not_finite += len(faults)
        return faults

    def _put(self, batch: _Batch, index: int, first: int, row: int, outputs: dict[str, Array]) -> list[TensorRef]:
        plan, slot = self._plan, batch.run.slot
        refs: list[TensorRef] = []
        if plan.post:
            placement = batch.placements.get(index, WHOLE_PICTURE)
            for position, value in enumerate(plan.post.apply(outputs[plan.post.tensor][row], placement)):
                refs.append(self._copy(slot, position, index, value))
        for position, output in enumerate(plan.outputs, start=self._posts):
            if self._in_place[position - self._posts]:
                length = self._output_specs[position].bytes_max
                refs.append((self._output_bases[position] + (first + row) * length, length, 0, output.row_shape))
            else:
                refs.append(self._copies[position](slot, position, index, outputs[output.tensor][row]))
        if self._results_may_exceed and (total := sum(length for _, length, _, _ in refs)) > self._results_bytes_max:
            raise _OutputTooLarge(
                f"its outputs have {total:,} bytes together, no message holds more than {self._results_bytes_max:,}"
            )
        return refs

    def _copy(self, slot: int, position: int, index: int, value: Array) -> TensorRef:
        spec = self._output_specs[position]
        if value.nbytes > spec.bytes_max:
            raise _too_large(spec, value.nbytes, value.shape)
        self._region.filled[slot, True] += value.nbytes
        offset = self._output_bases[position] + index * spec.bytes_max
        view(self._region.outputs[slot], offset, value.shape, value.dtype)[...] = value
        return offset, value.nbytes, 0, value.shape

    def _copy_texts(self, slot: int, position: int, index: int, value: Array | str) -> TensorRef:
        spec = self._output_specs[position]
        texts = np.asarray(value, TEXT)
        if texts.size > TEXT_ELEMENTS_MAX:
            raise _OutputTooLarge(
                f"output '{spec.name}' has {texts.size:,} elements of text, more than the {TEXT_ELEMENTS_MAX:,} that a "
                "frame may have; export it with fewer"
            )
        data = write_texts(texts.ravel().tolist())
        if len(data) > spec.bytes_max:
            raise _too_large(spec, len(data), texts.shape)
        self._region.filled[slot, True] += len(data)
        offset = self._output_bases[position] + index * spec.bytes_max
        self._region.outputs[slot][offset : offset + len(data)] = data
        return offset, len(data), 0, texts.shape

    def _outcome(self, batch: _Batch, index: int) -> tuple[int, list[TensorRef]]:
        if index in batch.results:
            return OK, batch.results[index]
        return FRAME_FAILED if index in batch.failed else INVALID, []


def _too_large(spec: TensorSpec, size_bytes: int, shape: Sequence[int]) -> _OutputTooLarge:
    return _OutputTooLarge(
        f"output '{spec.name}' has {size_bytes:,} bytes ({spec.datatype}{list(shape)}), "
        f"more than the {spec.bytes_max:,} that a frame may have; raise bytes_max of [[output]] in model.toml "
        f"to at least {size_bytes}"
    )


def _stack(rows: Sequence[Array], size: int) -> Array:
    """Returns one array with `size` rows, the last of them zeros or no text. A single row is not copied."""
    if size == 1:
        return rows[0][None]
    padding = [np.full_like(rows[0], "" if rows[0].dtype == TEXT else 0)] * (size - len(rows))
    return np.stack([*rows, *padding])
