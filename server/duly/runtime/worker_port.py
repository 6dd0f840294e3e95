"""What the driver needs of a worker: the process behind `runtime/worker_process`, or a fake lane in tests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from duly.core.events import DispatchBatch, WarmLane
from duly.runtime.outcome import Output
from duly.runtime.payloads import Payload


@dataclass(slots=True)
class BatchResult:
    """A batch that ran. Reasons by index in the batch; times on CLOCK_MONOTONIC."""

    started_ns: int
    finished_ns: int
    outputs: Callable[[int], list[Output]]
    """Copies the outputs of the frame of that index in the batch. Valid until the next but one batch of the worker."""
    invalid: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


class LaneWorker(Protocol):
    model: str
    lane: str

    @property
    def busy(self) -> bool:
        """A batch runs that was not reported."""

    def run(self, action: DispatchBatch, payloads: list[Payload]) -> bool:
        """Starts the batch; its end is reported to `Driver.batch_ended`. False: the worker is gone, nothing started.

        Raises where the batch can't be handed over; nothing started then, either.
        """

    def warm(self, action: WarmLane) -> bool:
        """Starts a run that no frame waits for; its end is reported likewise. False: as above."""

    def forget(self, stream_id: int) -> None:
        """The stream is closed: its state is no longer needed."""

    def give_up(self, reason: str) -> None:
        """Whatever runs there is of no interest any more and never reported; the worker goes, and is replaced."""
