"""What the driver needs of a worker, which is a process behind `runtime/worker_process` or a fake in tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from duly.core.events import DispatchBatch, WarmLane
from duly.core.types import Frame
from duly.runtime.given_state import GivenState
from duly.runtime.held_frames import InputData
from duly.runtime.outcome import Output


@dataclass(slots=True)
class BatchResult:
    """A batch that ran. Times are those of CLOCK_MONOTONIC."""

    started_ns: int
    finished_ns: int
    outputs: Callable[[int], list[Output]]
    """Copies the outputs of the frame with that index in the batch. It may be called until the worker is given its next
    batch but one."""
    invalid: dict[int, str] = field(default_factory=dict)
    """Why frames are INVALID, by their index in the batch."""
    failed: dict[int, str] = field(default_factory=dict)
    """Why frames are FAILED, by their index in the batch."""
    read_ns: Sequence[int] = ()
    """How long reading each frame took, where pictures are decoded."""
    hollow: bool = False
    """Whether the worker gives nothing but outputs that are not finite, even for a frame of its own."""
    guards: dict[int, tuple[str, ...]] | None = None
    """The guards that found something on frames, by their index in the batch. None: nothing was found."""


@dataclass(frozen=True, slots=True)
class NoRoom:
    """A batch that failed as there is not enough memory for so many frames, whatever they are."""

    reason: str
    size_max: int
    """The largest size of the variant that runs there; 0: none does."""


class LaneWorker(Protocol):
    model: str
    lane: str

    @property
    def busy(self) -> bool:
        """Whether a batch runs that has not been reported."""

    @property
    def copied_ahead(self) -> int:
        """How many frames of its newest batch it was told to copy to its device before the batch began."""

    @property
    def stages(self) -> bool:
        """Whether it is worth while to `stage` frames."""

    def run(self, action: DispatchBatch, payloads: Sequence[Sequence[InputData]], last: frozenset[int]) -> bool:
        """Starts the batch, whose end is reported to `Driver.batch_ended`. Returns False if the worker is gone. `last`:
        the indices of the frames that are the last of their streams.

        Raises if the batch cannot be handed over. In both cases nothing has been started.
        """

    def stage(self, frames: Sequence[Frame], payloads: Sequence[Sequence[InputData]], bytes_max: int) -> bool:
        """Takes in frames that are likely to be in its next batch, of its own inputs up to `bytes_max` bytes and one
        frame at least. Those that have been taken in are passed over. Returns whether some are left. It never raises
        for the sake of a frame.
        """

    def warm(self, action: WarmLane) -> bool:
        """Starts a run that no frame waits for. End and result are reported as with `run`."""

    def forget(self, stream_id: int) -> None:
        """The stream is closed, so its state is no longer needed."""

    def give_state(self, stream_ids: Sequence[int], given: Callable[[GivenState | None], None]) -> int:
        """Asks for the states of these streams, which the worker then forgets. `given` is called with them once the
        worker has answered, or with None if it is gone; who is called closes them. Returns how many bytes they take; 0:
        the worker cannot be asked, and nobody is called.
        """

    def take_state(self, given: GivenState) -> bool:
        """Gives the worker states for the batch that follows. Returns False if it cannot have them."""

    def rouse(self) -> None:
        """Wakes the worker up, as something is about to come for it, and lets it stay awake for a moment after each
        batch from then on.
        """

    def has_answered(self, batch_id: int) -> bool:
        """Takes in what the worker has said already, as `hear` does. Returns whether that batch runs no more."""

    def hear(self) -> None:
        """Takes in what the worker has said already."""

    def give_up(self, reason: str) -> None:
        """Ends the worker, which is then replaced. What runs on it is never reported."""
