"""Decides which frames are kept, and hands them to the process that writes them.

It looks at every frame that has a result (`runtime/outcome.Tap`), so what it does for one that is not kept has to cost
next to nothing. Of one that is kept the bytes are not copied here, but where they lie in memory that is shared with the
client, who may overwrite it as soon as it has the outcome.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random

from duly.core.types import OutcomeStatus
from duly.models.spec import STATES_MAX, VIDEO, Signature
from duly.runtime.held_frames import HeldFrame, InputData
from duly.runtime.outcome import BatchRun, Output, Sink
from duly.runtime.shared_memory import SharedData
from duly.sampling import wire
from duly.sampling.link import WriterLink
from duly.sampling.reservoir import NoPlace, Reservoir, Reservoirs
from duly.sampling.runs import Runs, State, States
from duly.streams.cheap_work import Budget
from duly.streams.stream import Stream
from duly.worker.channel import ENCODINGS, ROW

FRAME_BYTES_MAX = 32 << 20
"""A frame that is larger with its answer is not kept."""
NOT_KEPT = {ROW: "read_apart", **{ENCODINGS.index(name): "video" for name in VIDEO}}
"""Frames with an input in these encodings are not kept, and why: what the client sent is gone, or shows nothing without
the frames before it."""
MODELS_KEPT = 1024
"""Of so many models it is remembered whether samples of them are drawn."""
FORMS_KEPT = 256
"""Of so many versions it is remembered how their frames are described."""
SHARED_MAX = 1024
"""Of so many callers it is remembered where frames of theirs are kept that come on no stream."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Samples are drawn from streams."""

    models: tuple[str, ...]
    """Patterns of the names of the models."""
    groups_max: int
    frames: int
    """How many of each group are kept."""
    run_frames: int
    """Of a model that keeps state runs of so many neighbours are drawn: as many runs as there is room for in `frames`,
    at least one."""
    seed: int


@dataclass(frozen=True, slots=True)
class Learned:
    """What is to be known of a model that learns."""

    per_s_max: float
    """So many of its frames a second are kept at most."""
    class_label: str
    """The name of the label that says the right class."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What is drawn from a stream."""

    model: str
    """Its name."""
    group: str
    reservoir: Reservoir | Runs
    """Draws frames, or runs of them where the model keeps state."""


class Sampler:
    def __init__(
        self,
        link: WriterLink,
        clock: Callable[[], int],
        sink: Callable[[int], Sink | None],
        drawing: Drawing | None,
        learned: Callable[[str], Learned | None] | None,
    ) -> None:
        """`clock`: nanoseconds that never go back. `sink(stream_id)`: where outcomes of a stream go; None: it has
        closed. `drawing`: None: no samples are drawn. `learned(NAME/VERSION)`: None: its frames are not learnt from;
        None in place of it: no model's are.
        """
        self._link = link
        self._clock = clock
        self._sink = sink
        self._drawing = drawing
        self._learned = learned
        self.run_key = os.urandom(8).hex()
        """Tells this run of the server from others, in the keys of streams."""
        random = Random(drawing.seed) if drawing is not None else Random()
        self._drawn = Reservoirs(drawing.groups_max, random) if drawing is not None else None
        self._states = States(STATES_MAX)
        self._streams: dict[int, _Drawn] = {}
        """What is drawn from each stream that frames were drawn from, by its id."""
        self._draws_of: dict[str, bool] = {}
        """Whether samples of a model are drawn, by its name, as far as that was asked."""
        self._shared: OrderedDict[tuple[str, str], int] = OrderedDict()
        """The numbers of the groups of calls that are no streams, by model and principal."""
        self._shared_count = 0
        self._budgets: dict[str, Budget] = {}
        """How many more frames may be kept, by model."""
        self._forms: OrderedDict[tuple[str, tuple[int, ...], str], tuple[Signature, str]] = OrderedDict()
        """How frames are described, as JSON, by version, encodings and name of the label; and for which signature."""

    def keeps(self, model: str) -> bool:
        """Whether frames of a model (NAME/VERSION) may be kept, so that labels can come for them."""
        return self._draws(model.partition("/")[0]) or (self._learned is not None and self._learned(model) is not None)

    def key_of(self, stream: Stream) -> str:
        """Returns by what the client names the stream when it sends labels; empty: no frames of it are kept."""
        if not self.keeps(stream.model):
            return ""
        return self._key(stream.stream_id, stream, stream.served.version.name, stream.principal)

    def _key(self, stream_id: int, sink: Sink | None, name: str, principal: str) -> str:
        if isinstance(sink, Stream) and sink.asked.single:
            return f"{self._shared_group(name, principal)}-{stream_id}"
        return f"{self.run_key}-{stream_id}"

    def _shared_group(self, name: str, principal: str) -> str:
        """The group of frames that a principal sends on no stream."""
        number = self._shared.pop((name, principal), 0)
        if not number:
            self._shared_count += 1
            number = self._shared_count
            if len(self._shared) >= SHARED_MAX:
                self._shared.popitem(last=False)
        self._shared[name, principal] = number
        return f"{self.run_key}-c{number}"

    def _draws(self, name: str) -> bool:
        draws = self._draws_of.get(name)
        if draws is None:
            if len(self._draws_of) >= MODELS_KEPT:
                self._draws_of.clear()
            patterns = self._drawing.models if self._drawing is not None else ()
            draws = self._draws_of[name] = any(fnmatchcase(name, pattern) for pattern in patterns)
        return draws

    # ---- the tap ----

    def take(
        self,
        pieces: Sequence[HeldFrame],
        payload: Sequence[InputData],
        status: OutcomeStatus,
        outputs: Sequence[Output],
        run: BatchRun,
    ) -> None:
        """Looks at a frame that has run, and keeps it if it is its turn. See `runtime/outcome.Tap`."""
        try:
            self._take(pieces, payload, status, outputs, run)
        except Exception:
            self._link.counts.dropped["fault"] += 1
            raise

    def _take(
        self,
        pieces: Sequence[HeldFrame],
        payload: Sequence[InputData],
        status: OutcomeStatus,
        outputs: Sequence[Output],
        run: BatchRun,
    ) -> None:
        held = pieces[0]
        model = run.batch.model
        stored = self._stored(model) if self._learned is not None else None
        state = self._state(pieces, run) if held.signature.stateful else None
        group, place = "", None
        if self._drawn is not None:
            drawn = self._streams.get(held.frame.stream_id) or self._first(held, model)
            if drawn is not None:
                group, draws = drawn.group, drawn.reservoir
                is_first = state is not None and state.age == 0
                place = draws.offer(is_first) if isinstance(draws, Runs) else draws.offer()
        if stored is None and place is None:
            return
        places = (stored is not None) + (place is not None)
        for entry in payload:
            if entry.encoding in NOT_KEPT:
                self._link.counts.dropped[NOT_KEPT[entry.encoding]] += places
                return
        data: list[wire.Buffer] = []
        tensors: list[tuple[str, Sequence[int], int]] = []
        for piece, entry in zip(_inputs(pieces), payload, strict=True):
            contents = _copied(entry.data) if isinstance(entry.data, SharedData) else entry.data
            if contents is None:
                self._link.counts.dropped["client_gone"] += places
                return
            data.append(contents)
            shape = [len(contents)] if entry.encoding else entry.shape
            tensors.append((f"input.{piece}", shape, len(contents)))
        for index, shape, contents in outputs:
            data.append(contents)
            tensors.append((f"output.{held.signature.outputs[index].name}", shape, len(contents)))
        size_bytes = sum(map(len, data))
        if size_bytes > FRAME_BYTES_MAX:
            self._link.counts.dropped["too_large"] += places
            return
        form = self._form(model, pieces, payload, stored.class_label if stored is not None else "label")
        frame = self._frame(pieces, payload, status, run)
        if state is not None:
            frame["state"] = state
        text = f'"store": {json.dumps(stored is not None)}, "tensors": {json.dumps(tensors)}'
        if place is not None:
            text += f', "group": "{group}", "place": {place}'
        head = wire.encoded(wire.FRAME, f'{{{text}, "frame": {json.dumps(frame)}, "form": {form}}}', size_bytes)
        self._link.send(head, data, size_bytes, places)

    def _state(self, pieces: Sequence[HeldFrame], run: BatchRun) -> State | None:
        """Returns what the state had seen that a frame ran with; None: that is not known."""
        sink = self._sink(pieces[0].frame.stream_id)
        if isinstance(sink, Stream) and sink.asked.single:
            return State(pieces[0].frame.frame_id, 0)
        seq = max(piece.frame.seq for piece in pieces)
        # Of a joint frame the stream is that of its group.
        frame = pieces[0].frame if len(pieces) == 1 else next(each for each in run.batch.frames if each.seq == seq)
        anew = seq in run.batch.resets_state or seq in run.lost_state
        return self._states.ran(frame.stream_id, frame.frame_id, anew)

    def _stored(self, model: str) -> Learned | None:
        """Returns what is to be known of a model that learns, if this frame of it is kept."""
        assert self._learned is not None
        learned = self._learned(model)
        if learned is None:
            return None
        name = model.partition("/")[0]
        budget = self._budgets.get(name)
        if budget is None:
            burst = max(1, int(learned.per_s_max))
            budget = self._budgets[name] = Budget(self._clock, learned.per_s_max, burst)
        if not budget.take_if_there():
            self._link.counts.dropped["rate"] += 1
            return None
        return learned

    def _first(self, held: HeldFrame, model: str) -> "_Drawn | None":
        """Returns what is drawn from a stream of which nothing was drawn before, or from calls that are none; None:
        nothing is.
        """
        assert self._drawn is not None
        assert self._drawing is not None
        name = model.partition("/")[0]
        if not self._draws(name):
            return None
        stream_id = held.frame.stream_id
        sink = self._sink(stream_id)
        single = isinstance(sink, Stream) and sink.asked.single
        group = self._shared_group(name, held.principal) if single else f"{self.run_key}-{stream_id}"
        runs = held.signature.stateful and not single
        frames, run_frames = self._drawing.frames, self._drawing.run_frames
        try:
            reservoir = self._drawn.of(group, max(1, frames // run_frames) if runs else frames)
        except NoPlace:
            self._link.counts.dropped["streams"] += 1
            return None
        drawn = _Drawn(name, group, Runs(reservoir, run_frames) if runs else reservoir)
        if single:
            self._drawn.may_go(group)  # nobody can tell when the last of its frames has come
        else:
            self._streams[stream_id] = drawn
        return drawn

    def look(self) -> None:
        """Lets streams give way to others that have closed. It must be called periodically."""
        self._states.forget(lambda stream_id: self._sink(stream_id) is None)
        for stream_id, drawn in list(self._streams.items()):
            if self._sink(stream_id) is None and self._link.tell_ended(drawn.model, drawn.group):
                del self._streams[stream_id]
                if self._drawn is not None:
                    self._drawn.may_go(drawn.group)

    def living(self) -> dict[str, set[str]]:
        """Returns the groups whose streams go on, by model."""
        groups: dict[str, set[str]] = {}
        for stream_id, drawn in self._streams.items():
            if self._sink(stream_id) is not None:
                groups.setdefault(drawn.model, set()).add(drawn.group)
        return groups

    # ---- what is said of a frame ----

    def _frame(
        self, pieces: Sequence[HeldFrame], payload: Sequence[InputData], status: OutcomeStatus, run: BatchRun
    ) -> dict[str, object]:
        held = pieces[0]
        name = run.batch.model.partition("/")[0]
        sink = self._sink(held.frame.stream_id)
        related = held.clock_uncertainty_ns > 0
        keys = [
            (self._key(piece.frame.stream_id, self._sink(piece.frame.stream_id), name, piece.principal), piece)
            for piece in pieces
        ]
        frame: dict[str, object] = {
            "variant": run.batch.variant,
            "stream": keys[0][0],
            "frame_id": held.frame.frame_id,
            "received_unix_ns": held.received_unix_ns,
            "captured_unix_ns": held.received_unix_ns - held.capture_to_receipt_ns if related else 0,
            "status": status.name,
            "principal": held.principal,
        }
        if isinstance(sink, Stream) and sink.asked.stream_name:
            frame["stream_name"] = sink.asked.stream_name
        encodings = {
            f"input.{input_}": ENCODINGS[data.encoding]
            for input_, data in zip(_inputs(pieces), payload, strict=True)
            if data.encoding
        }
        if encodings:
            frame["encodings"] = encodings
        if held.drawn:
            frame["drawn"] = True
        if run.guards is not None:
            found = [name for piece in pieces for name in run.guards.get(piece.frame.seq, ())]
            if found:
                frame["guards"] = found
        if len(pieces) > 1:
            frame["pieces"] = [(key, piece.frame.frame_id) for key, piece in keys]
        return frame

    def _form(self, model: str, pieces: Sequence[HeldFrame], payload: Sequence[InputData], class_label: str) -> str:
        """Returns what frames like this one have in common, as JSON (`sample.form_meta`)."""
        encodings = tuple(data.encoding for data in payload)
        signature = pieces[0].signature
        key = model, encodings, class_label
        known = self._forms.get(key)
        if known is not None and known[0] is signature:
            return known[1]
        inputs = [spec for piece in pieces for spec in piece.signature.inputs]
        datatypes = {
            f"input.{spec.name}": "UINT8" if encoding else spec.datatype
            for spec, encoding in zip(inputs, encodings, strict=True)
        }
        datatypes |= {f"output.{spec.name}": spec.datatype for spec in signature.outputs}
        name, _, version = model.partition("/")
        form = json.dumps(
            {
                "format": 1,
                "model": name,
                "version": version,
                "datatypes": datatypes,
                "output_shapes": {spec.name: spec.shape for spec in signature.outputs},
                "class_label": class_label,
            }
        )
        self._forms[key] = signature, form
        if len(self._forms) > FORMS_KEPT:
            self._forms.popitem(last=False)
        return form


def _copied(data: SharedData) -> bytes | None:
    """Returns what lies in memory that is shared with a client; None: the client has gone, as one of those whose frames
    were joined may have.
    """
    try:
        contents = data.copy()
    except OSError:
        return None
    return contents if len(contents) == len(data) else None


def _inputs(pieces: Sequence[HeldFrame]) -> list[str]:
    """The names of the model's inputs, in their order."""
    return [spec.name for piece in pieces for spec in piece.signature.inputs]
