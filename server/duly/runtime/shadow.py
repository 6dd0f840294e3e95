"""The shadow of a version that is tried: copies of live frames run on it in spare time, and their answers are compared
with those that the clients got. Nobody else ever sees them.

A copy holds the payload as it came, which costs no memory beside what refers to it, and the answer that was given. How
many bytes all copies hold is bounded, and so is how many answers are compared a second: what is beyond either is
counted, and not tried.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from duly.agreement.measures import Measure
from duly.core.events import Advice, StreamClosed
from duly.core.fates import RESULTS
from duly.core.types import BacklogPolicy, Frame, OutcomeStatus, StreamClass, StreamTerms, larger
from duly.models.spec import VIDEO, Signature
from duly.models.trial import Trial as Settings
from duly.runtime.catalogue import LoadedVersion
from duly.runtime.comparing import Comparing
from duly.runtime.driver import Driver
from duly.runtime.held_frames import HeldFrame, InputData
from duly.runtime.outcome import BatchRun, Outcome, Output
from duly.runtime.shared_memory import SharedData
from duly.worker.channel import ENCODINGS, ROW

HELD_BYTES_MAX = 64 << 20
"""The payloads and answers that the copies of all trials hold; a frame for which there is no room is not tried."""
COMPARED_BYTES_MAX = 1 << 18
"""Answers of more bytes are not compared, so that no comparison takes long."""
WAIT_NS_MAX = 5_000_000_000
"""A copy for which there is no spare time for so long is given up."""
_NOT_AS_SENT = frozenset({ROW, *map(ENCODINGS.index, VIDEO)})
"""Frames with an input in these encodings are not tried: the active version's preprocessing has made numbers of it, or
it shows nothing without the frames before it."""


@dataclass(slots=True)
class HeldBytes:
    """What the copies of all trials hold together."""

    bytes: int = 0


@dataclass(slots=True)
class ShadowCounts:
    """What became of frames that were drawn for the shadow."""

    not_drawn: int = 0
    """Beyond what is compared a second, or at once, or held, or no longer there as the client sent it."""
    not_run: int = 0
    """For want of spare time."""
    compared: int = 0


class Shadow:
    """The runtime's Sink for the copies of one trial."""

    def __init__(
        self,
        driver: Driver,
        candidate: LoadedVersion,
        active: LoadedVersion,
        settings: Settings,
        measure: Measure,
        held_bytes: HeldBytes,
        comparing: Comparing,
        compared: Callable[[float], None],
        failed: Callable[[str], None],
    ) -> None:
        """`held_bytes` and `comparing` are shared with the other trials. `compared(agreement)` is called for each
        answer that was compared, `failed(reason)` for each frame on which the candidate fails; both on the event loop,
        and never within a step of the driver.
        """
        assert candidate.signature is not None, "it is loaded"
        self.counts = ShadowCounts()
        self._driver = driver
        self._key = candidate.key
        self._signature: Signature = candidate.signature
        self._active_key = active.key
        self._best = active.version.config.variant_names[0]
        self._share = settings.shadow_share
        self._per_s = settings.comparisons_per_s_max
        self._measure = measure
        self._comparing = comparing
        self._compared = compared
        self._failed = failed
        self._random = Random(candidate.key)
        self._loop = asyncio.get_running_loop()
        self._may_draw = 1.0
        """How many frames may be drawn now, by the bound for a second."""
        self._drawn_ns = driver.clock()
        self._held: dict[int, tuple[list[Output], int]] = {}
        """The answers that clients got and the bytes that are held, by the `seq` of the copy."""
        self._held_bytes = held_bytes
        self._frame_id = 0
        self._closed = False
        terms = StreamTerms(StreamClass.BEST_EFFORT, BacklogPolicy.LATEST, 1, WAIT_NS_MAX, 64, model=self._key)
        terms.spare = True
        self._stream_id = driver.open_stream(self, terms)
        driver.add_tap(self.see)

    def close(self) -> None:
        """Ends it. Copies that run are let go when they end. It must not be called within a step of the driver."""
        self._closed = True
        self._driver.remove_tap(self.see)
        self._driver.submit(StreamClosed(self._stream_id))
        if not self._held:
            self._driver.forget_stream(self._stream_id)

    @property
    def sees(self) -> bool:
        """Whether it is still shown frames; it is not where the server has failed on one."""
        return self._driver.has_tap(self.see)

    # ---- what clients got ----

    def see(
        self,
        pieces: Sequence[HeldFrame],
        payload: Sequence[InputData],
        status: OutcomeStatus,
        outputs: Sequence[Output],
        run: BatchRun,
    ) -> None:
        """Draws a frame that the active version has answered, perhaps; a tap of the driver's."""
        batch = run.batch
        if batch.model != self._active_key or batch.variant != self._best or len(pieces) != 1 or self._closed:
            return
        if self._random.random() >= self._share:
            return
        size = sum([len(each.data) for each in payload]) + _bytes_of(outputs)
        as_sent = not any([each.encoding in _NOT_AS_SENT for each in payload])
        too_large = _bytes_of(outputs) > COMPARED_BYTES_MAX or self._held_bytes.bytes + size > HELD_BYTES_MAX
        own = _owned(payload) if as_sent and not too_large and self._draws() else None
        if own is None:
            self.counts.not_drawn += 1
            return
        self._try(pieces[0], own, list(outputs), size)

    def _draws(self) -> bool:
        now_ns = self._driver.clock()
        self._may_draw += (now_ns - self._drawn_ns) / 1e9 * self._per_s
        self._may_draw, self._drawn_ns = min(self._may_draw, max(1.0, self._per_s / 4)), now_ns
        if self._may_draw < 1.0:
            return False
        self._may_draw -= 1.0
        return True

    def _try(self, given: HeldFrame, own: list[InputData], outputs: list[Output], size: int) -> None:
        driver = self._driver
        self._frame_id += 1
        now_ns = driver.clock()
        frame = Frame(next(driver.seqs), self._stream_id, self._frame_id, self._key, now_ns + WAIT_NS_MAX)
        costs = driver.costs.get(self._key)
        if costs is not None and (extra_ns := costs.extra_ns(own)[0]):
            frame = larger(frame, extra_ns, untried=costs.untried(own))
        held = HeldFrame(frame, StreamClass.BEST_EFFORT, self._signature, now_ns, given.received_unix_ns, payload=own)
        held.spare = True
        self._held[frame.seq] = outputs, size
        self._held_bytes.bytes += size
        driver.take_frame(held)

    # ---- what the candidate made of it ----

    def deliver(self, outcome: Outcome) -> None:
        given, size = self._held.pop(outcome.held.frame.seq)
        self._held_bytes.bytes -= size
        if self._closed:
            if not self._held:
                self._loop.call_soon(self._driver.forget_stream, self._stream_id)
        elif outcome.status in RESULTS and outcome.outputs is not None:
            self._loop.call_soon(self._compare, given, outcome.outputs)
        elif outcome.status is OutcomeStatus.INVALID:
            self._loop.call_soon(self._differs)
        elif outcome.status is OutcomeStatus.FAILED and outcome.run is not None:
            self._loop.call_soon(self._fails, outcome.reason)
        else:  # also where the server failed on it, which is no fault of the candidate's
            self.counts.not_run += 1

    def advise(self, advice: Advice, reason: str, period_ns: int) -> None:
        """Nobody is there to follow it."""

    def fail(self) -> None:
        self._loop.call_soon(self._fails, "the server failed on an answer of it")

    def _differs(self) -> None:
        """Takes that the candidate finds a frame INVALID to which the active version gave an answer."""
        if not self._closed:
            self.counts.compared += 1
            self._compared(0.0)

    def _fails(self, reason: str) -> None:
        if not self._closed:
            self._failed(reason)

    def _compare(self, given: list[Output], got: list[Output]) -> None:
        if self._closed:
            return
        fits = _bytes_of(got) <= COMPARED_BYTES_MAX
        if not fits or not self._comparing.compare(self._measure, self._signature.outputs, given, got, self._judged):
            self.counts.not_drawn += 1

    def _judged(self, found: float | str) -> None:
        """Takes the agreement of an answer, or why the candidate fails on it."""
        if self._closed:
            return
        if isinstance(found, str):
            self._failed(found)
            return
        self.counts.compared += 1
        self._compared(found)


def _owned(payload: Sequence[InputData]) -> list[InputData] | None:
    """Returns the payload with a copy of what lies in a client's memory, since the client may soon write something else
    there; None: the client has gone, or the memory is shorter than it was.
    """
    own: list[InputData] = []
    for each in payload:
        if isinstance(each.data, SharedData):
            try:
                data = each.data.copy()
            except OSError:
                return None
            if len(data) != len(each.data):
                return None
            each = each._replace(data=data)
        own.append(each)
    return own


def _bytes_of(outputs: Sequence[Output]) -> int:
    return sum([len(data) for _, _, data in outputs])
