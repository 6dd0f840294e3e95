"""What the runtime hands to a stream for each frame."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from duly.core.events import Advice, DispatchBatch
from duly.core.fates import Fate
from duly.core.types import OutcomeStatus
from duly.runtime.held_frames import HeldFrame, InputData

Output = tuple[int, tuple[int, ...], bytes]
"""One output of a frame: (index into the signature's outputs, shape, little-endian bytes)."""


@dataclass(slots=True)
class BatchRun:
    """A batch and when it ran, on the server's monotonic clock."""

    batch: DispatchBatch
    dispatched_ns: int
    started_ns: int = 0
    finished_ns: int = 0
    stateless: dict[int, str] = field(default_factory=dict)
    """Frames (by seq) that run without the state that their stream insists on, and are FAILED for this reason."""
    lost_state: Sequence[int] = ()
    """Frames (by seq) whose streams start anew, as their state was lost on its way from another worker."""
    guards: dict[int, tuple[str, ...]] | None = None
    """The guards that found something on frames, by the seq of the frames as they came. None: nothing was found."""


@dataclass(slots=True, init=False)
class Outcome:
    held: HeldFrame
    status: OutcomeStatus
    reason: str
    run: BatchRun | None = None
    outputs: list[Output] | None = None
    turned_out: Fate | None = None
    """The fate of a result that turned out otherwise on its way to the client; None: `status` holds."""
    result_bytes: int = 0
    """Bytes of its outputs as its stream counts them, until they are written."""

    # Written out, as a constructor that a dataclass makes is never compiled.
    def __init__(
        self,
        held: HeldFrame,
        status: OutcomeStatus,
        reason: str,
        run: BatchRun | None = None,
        outputs: list[Output] | None = None,
        turned_out: Fate | None = None,
        result_bytes: int = 0,
    ) -> None:
        self.held = held
        self.status = status
        self.reason = reason
        self.run = run
        self.outputs = outputs
        self.turned_out = turned_out
        self.result_bytes = result_bytes

    @property
    def guards(self) -> tuple[str, ...]:
        """The names of the model's guards that found something on the frame."""
        run = self.run
        if run is None or run.guards is None:
            return ()
        return run.guards.get(self.held.frame.seq, ())


class Partner(NamedTuple):
    """A frame that another one was joined with."""

    input: str
    """Name of the model's input that it is for."""
    frame_id: int
    captured_after_ns: int
    """How long after the other one it was captured; negative: before."""


class FusedOutcome(Outcome):
    """The outcome of a frame that was joined with others."""

    __slots__ = ("partners",)

    def __init__(
        self,
        held: HeldFrame,
        status: OutcomeStatus,
        reason: str,
        run: BatchRun | None,
        outputs: list[Output] | None,
        partners: tuple[Partner, ...],
    ) -> None:
        Outcome.__init__(self, held, status, reason, run, outputs)
        self.partners = partners


Tap = Callable[[Sequence[HeldFrame], Sequence[InputData], OutcomeStatus, Sequence[Output], BatchRun], None]
"""What looks at a frame that has run, as `tap(pieces, payload, status, outputs, run)`, just before its outcome goes
to its stream. `pieces`: the frame, or in place of a joint one those that it was made of. `payload`: one entry for
each input of the model, in its order, whichever piece it came with. The payload is let go right after the call, and
the client may then overwrite what lies in memory that is shared with it (`SharedData`): who wants that copies it at
once. Other bytes stay as they are, so that keeping them is enough. `status` is the scheduler's; a result may still
turn out otherwise on its way to the client. A tap is called on the event loop and must not block.
"""


class Sink(Protocol):
    """Where the outcomes of one stream go. Its methods are called on the event loop and must not block."""

    def deliver(self, outcome: Outcome) -> None: ...

    def advise(self, advice: Advice, reason: str, period_ns: int) -> None: ...

    def fail(self) -> None:
        """Ends the stream after one of the other methods raised. It gets nothing more."""
