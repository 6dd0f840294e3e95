"""A lane that runs a batch for as long as the test likes, and a clock that stands still until the test moves it."""

from collections.abc import Callable, Sequence

from duly.core.events import DispatchBatch, WarmLane
from duly.core.types import Frame
from duly.runtime.driver import Driver
from duly.runtime.given_state import GivenState
from duly.runtime.held_frames import InputData
from duly.runtime.outcome import Output
from duly.runtime.worker_port import BatchResult


class Clock:
    """Starts anywhere: a stray look at another clock would show."""

    def __init__(self, start_ns: int = 987_654_321_000_000) -> None:
        self.now_ns = start_ns

    def __call__(self) -> int:
        return self.now_ns


class FakeLane:
    """Takes batches and keeps them until the test ends them."""

    def __init__(self, model: str, lane: str) -> None:
        self.model = model
        self.lane = lane
        self.running: list[tuple[DispatchBatch, Sequence[Sequence[InputData]]]] = []
        self.last: frozenset[int] = frozenset()
        """Which frames of the batch that runs are the last of their streams."""
        self.warming: list[WarmLane] = []
        self.forgotten: list[int] = []
        self.roused = 0
        self.gone = False
        self.stages = False
        self.copied_ahead = 0
        self.leaves = 0
        """How many more calls leave frames for the next one."""
        self.staged: list[tuple[int, ...]] = []
        """The frames that were brought ahead, by the seq, of each call."""

    def run(self, action: DispatchBatch, payloads: Sequence[Sequence[InputData]], last: frozenset[int]) -> bool:
        if self.gone:
            return False
        assert not self.running, "one batch at a time"
        self.running.append((action, payloads))
        self.last = last
        return True

    def stage(self, frames: Sequence[Frame], payloads: Sequence[Sequence[InputData]], bytes_max: int) -> bool:
        assert len(frames) == len(payloads)
        assert self.stages
        self.staged.append(tuple(frame.seq for frame in frames))
        self.leaves -= 1
        return self.leaves >= 0

    def warm(self, action: WarmLane) -> bool:
        if self.gone:
            return False
        self.warming.append(action)
        return True

    def forget(self, stream_id: int) -> None:
        self.forgotten.append(stream_id)

    def give_state(self, stream_ids: Sequence[int], given: Callable[[GivenState | None], None]) -> int:
        return 0

    def take_state(self, given: GivenState) -> bool:
        return False

    def rouse(self) -> None:
        self.roused += 1

    def has_answered(self, batch_id: int) -> bool:
        return all(action.batch_id != batch_id for action, _ in self.running)

    def hear(self) -> None:
        pass

    @property
    def busy(self) -> bool:
        return bool(self.running)

    def give_up(self, reason: str) -> None:
        self.gone = True

    def end(self, driver: Driver, finished_ns: int | None = None, **reasons: dict[int, str]) -> None:
        action, payloads = self.running.pop()

        def outputs(index: int) -> list[Output]:
            return [(0, (1,), payloads[index][0].data * 2)]

        now_ns = finished_ns or driver.clock()
        driver.batch_ended(action.batch_id, BatchResult(now_ns, now_ns, outputs, **reasons))
