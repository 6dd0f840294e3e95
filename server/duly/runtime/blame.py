"""Whose fault it is that workers die: of a frame, of a version, or of nobody. It reads no clock and does no I/O.

Theory. A frame on which native code crashes or never ends takes its worker with it, and with that the frames that share
its batch and those that come while the model is loaded again. Nobody can see from outside which frame it was, and a
worker may as well have died of something else (the OOM killer, a person, a device). So frames are tried alone:

1. The worker of a batch of several frames dies: all their streams are suspected. Frames that still have the time are
   run again, alone, and so are further frames of these streams, until TRIED_ALONE of them have gone well.
2. The worker of a frame that runs alone dies: the frame is blamed, and its stream gets a strike. One frame that goes
   well takes all strikes back, so that a stream which merely ran while somebody killed workers keeps none.
3. If the frame was in a batch that died before, that is hardly chance: nothing takes it back for CERTAIN_NS.
4. STRIKES_MAX strikes in a row, or CERTAIN_MAX frames of which workers died twice, bar the stream: its frames are
   FAILED without being run, first for BAR_NS, and twice as long each further time.

A client that opens a new stream for each such frame would start anew each time. So frames that ran alone when their
worker died are also counted for each principal and version, where they came on a new stream: one that was opened after
the first of them and of which fewer than TRIED_ALONE frames have gone well since. DEATHS_MAX of them, none more than
DEATHS_NS after the one before and no frame of a new stream gone well in between, bar the principal's new streams for
BAR_NS, and twice as long each further time, up to NEW_BAR_NS_MAX. Its other streams go on, and whatever kills workers
now and then bars none.

A version may crash of itself, too. So workers that die at once, before they have run a batch and within FRUITLESS_S,
are counted by version (`CrashLoop`). After more than FRUITLESS_MAX in a row, on any lane, the version is started again
only after a pause that doubles each time: a model that is loaded over and over takes the processors from those that
work. Its frames are FAILED meanwhile.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from duly.core.fates import PRINCIPAL_BARRED, STREAM_BARRED, Fate

TRIED_ALONE = 8
STRIKES_MAX = 3
"""A stream is barred after so many strikes."""
CERTAIN_MAX = 2
"""A stream is barred after so many strikes of frames that were alone when their worker died."""
CERTAIN_NS = 60_000_000_000
BAR_NS = 10_000_000_000
BAR_NS_MAX = 600_000_000_000
"""Each bar of a stream is twice as long as the one before, but no longer than this."""

DEATHS_MAX = 5
"""So many frames of a principal's new streams that killed workers bar its new streams."""
DEATHS_NS = 30_000_000_000
"""After so long without another, what a principal's frames have done is forgotten, once its bar is over."""
NEW_BAR_NS_MAX = 60_000_000_000
"""The longest bar of a principal's new streams: it may be a proxy, with many clients behind it."""
SUSPECTS_MAX = 1024
"""So many principals are suspected at once; of one more the oldest is forgotten."""

FRUITLESS_S = 1.0
FRUITLESS_MAX = 5
"""A version whose workers died so often without serving anything waits before the next one is started."""
PAUSE_S = 1.0
PAUSE_S_MAX = 30.0
"""Each such pause is twice as long as the one before, but no longer than this."""


@dataclass(slots=True)
class _Record:
    """What is held against one stream."""

    strikes: int = 0
    """How many of its frames, one after another, workers have died of while they ran alone."""
    alone: int = 0
    """How many further frames must go well before the stream's frames share batches again."""
    certain: int = 0
    certain_ns: int = 0
    """When a worker last died of a frame of which one had died before."""
    bars: int = 0
    barred_until_ns: int = 0


@dataclass(slots=True)
class _Suspect:
    """What is held against one principal's streams of one version."""

    first_id: int
    """The stream whose frame a worker died of first; those before it are not new."""
    deaths: int = 0
    died_ns: int = 0
    bars: int = 0
    barred_until_ns: int = 0


class Blame:
    """The streams that are suspected or barred. Streams that nothing is held against cost one look."""

    def __init__(self) -> None:
        self.peaceful = True
        """Whether nothing is held against anybody."""
        self._records: dict[int, _Record] = {}
        self._suspects: dict[tuple[str, str], _Suspect] = {}
        """By principal and version."""
        self._well: dict[int, int] = {}
        """How many frames of each stream have gone well while there was any suspect."""

    def runs_alone(self, stream_id: int) -> bool:
        """Whether frames of the stream must not share a batch."""
        record = self._records.get(stream_id)
        return record is not None and record.alone > 0

    def bar(self, now_ns: int, principal: str, model: str, stream_id: int) -> Fate | None:
        """Returns the fate of frames of the stream at present, which are not run: because of itself, or because of
        other streams of its principal; None: they are.
        """
        record = self._records.get(stream_id)
        if record is not None and now_ns < record.barred_until_ns:
            return STREAM_BARRED
        suspect = self._suspects.get((principal, model))
        if suspect is not None and now_ns < suspect.barred_until_ns and self._is_new(suspect, stream_id):
            return PRINCIPAL_BARRED
        return None

    def _is_new(self, suspect: _Suspect, stream_id: int) -> bool:
        return stream_id >= suspect.first_id and self._well.get(stream_id, 0) < TRIED_ALONE

    def died_alone(self, now_ns: int, principal: str, model: str, stream_id: int) -> bool:
        """Notes that a worker died of a frame of the stream, open or not, that ran alone. Returns whether the
        principal's new streams are barred from now on.
        """
        self._forget_suspects(now_ns)
        suspect = self._suspects.setdefault((principal, model), _Suspect(stream_id))
        self.peaceful = False
        if not self._is_new(suspect, stream_id):
            return False
        suspect.deaths += 1
        suspect.died_ns = now_ns
        if suspect.deaths < DEATHS_MAX:
            return False
        suspect.barred_until_ns = now_ns + min(BAR_NS << min(suspect.bars, 16), NEW_BAR_NS_MAX)
        suspect.bars += 1
        suspect.deaths = DEATHS_MAX - 1  # the next one bars them again
        return True

    def went_well_for(self, principal: str, model: str, stream_id: int) -> None:
        """Notes that a frame of the stream, which is open, ran, and its worker lives."""
        suspect = self._suspects.get((principal, model))
        if suspect is not None:
            if self._is_new(suspect, stream_id):
                suspect.deaths = 0
            self._well[stream_id] = self._well.get(stream_id, 0) + 1

    def _forget_suspects(self, now_ns: int) -> None:
        for whose, suspect in list(self._suspects.items()):
            if now_ns >= max(suspect.died_ns, suspect.barred_until_ns) + DEATHS_NS:
                del self._suspects[whose]
        if len(self._suspects) > SUSPECTS_MAX:
            del self._suspects[next(iter(self._suspects))]
        if not self._suspects:
            self._well.clear()
        self._look_around()

    def died(self, now_ns: int, frames: Iterable[tuple[int, bool]], alone: bool = True) -> list[int]:
        """Notes that a worker died while it ran these frames of open streams, each given as (its stream, whether a
        worker had died before while it ran it). `alone`: a single one ran alone, rather than beside frames of streams
        that have closed. Returns the streams that are barred from now on.
        """
        tried = list(frames)
        for stream_id, _ in tried:
            self._records.setdefault(stream_id, _Record()).alone = TRIED_ALONE
            self.peaceful = False
        if len(tried) != 1 or not alone:
            return []
        (stream_id, again), *_ = tried
        record = self._records[stream_id]
        record.strikes += 1
        if again:
            record.certain = record.certain + 1 if now_ns - record.certain_ns < CERTAIN_NS else 1
            record.certain_ns = now_ns
        if record.strikes < STRIKES_MAX and record.certain < CERTAIN_MAX:
            return []
        record.barred_until_ns = now_ns + min(BAR_NS << min(record.bars, 16), BAR_NS_MAX)
        record.bars += 1
        record.strikes = STRIKES_MAX - 1  # the next one bars it again
        return [stream_id]

    def went_well(self, stream_ids: Iterable[int]) -> None:
        """Notes that frames of these streams ran, and their worker lives."""
        for stream_id in stream_ids:
            record = self._records.get(stream_id)
            if record is not None:
                record.strikes = 0
                record.alone = max(0, record.alone - 1)
                if not record.alone and not record.certain and not record.bars:
                    del self._records[stream_id]
        self._look_around()

    def forget(self, stream_id: int) -> None:
        """The stream is closed."""
        self._records.pop(stream_id, None)
        self._well.pop(stream_id, None)
        self._look_around()

    def _look_around(self) -> None:
        self.peaceful = not self._records and not self._suspects


class CrashLoop:
    """Counts the workers of one version that died early, and says how long to wait before the next is started."""

    def __init__(self) -> None:
        self.fruitless = 0
        """How many died early, one after another."""

    def ended(self, lived_s: float, batches: int) -> float:
        """Notes the end of a worker that was ready for so long and ran so many batches. Returns how many seconds to
        wait before the next is started.
        """
        if lived_s >= FRUITLESS_S or batches:
            self.fruitless = 0
            return 0.0
        self.fruitless += 1
        over = self.fruitless - FRUITLESS_MAX
        return 0.0 if over <= 0 else min(PAUSE_S * 2.0 ** min(over - 1, 16), PAUSE_S_MAX)
