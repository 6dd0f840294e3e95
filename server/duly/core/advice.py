"""When streams are advised to send less often, and when they may send more again.

Theory. A frame that is shed costs what it takes to receive it. Where lanes and transport share processors, that is paid
for in results: with frames of 600 KB on two cores, three times the load leaves up to a third less goodput. Only the
sender can save that cost. So the scheduler advises a stream of the period that would be served, and a client that
follows keeps the other frames back.

The streams of one model and class are one group: classes go in order, and models are kept apart by value density. A
group has a limit in frames a second, or none:

    none --> overloaded ....... limited to the rate at which its frames are served on time
         <-- demand fits ...... all may send as they like again
    limit -> overloaded ....... cut to the rate that is served now
          -> lanes idle ....... raised by as much as fills them
          -> hardly a miss .... raised by a step now and then

A group is overloaded while a lasting part of its frames is missed and its lanes have no time left. What is served then
is what the lanes hold, with the batches, the noise and the costs of the transport as they are; no model of them is
needed. TCP finds its share in the same way (Jacobson, 1988; Chiu and Jain, 1989). A step that does not last doubles the
time to the next one, so that advice does not swing. A few misses are tolerated, because a limit a little above what is
served keeps the lanes busy.

The limit is divided as the scheduler divides the lanes (`merit`). Principals share by max-min fairness (Bertsekas and
Gallager, 1992, section 6.5): who asks for less than the level gets it, and the others get the level. The streams of one
principal all keep the same part of what they ask for, after the floors: a stream with a floor of m in k keeps that part
of its rate first. A stream asks for the rate that it had before it was slowed down, as a follower no longer shows what
it would send, unless it does not use what it may. The frames of followers count for those that they keep back
(`Merit.thinned`), so that nobody is served less for following.

A CRITICAL group is overloaded only if its lanes serve no other class. Streams of stateful models are never slowed down,
as their state needs every frame. Frames that were hopeless when they came do not count, as they say nothing about the
lanes.

Out of scope: frames that the host refuses itself (bytes in flight, malformed frames), and clients that follow late.
"""

from collections.abc import Mapping

from duly.core.events import Advice, AdviseStream
from duly.core.state import LaneState, StreamPace, StreamState
from duly.core.types import StreamClass
from duly.core.variants.model_state import ModelState

TICK_NS = 1_000_000_000
"""The counts of all streams are taken this often."""
WINDOW_FRAMES = 16
WINDOW_TICKS_MAX = 4
"""The window of a group ends with the tick at which this many frames have ended, or after this many ticks."""
MISSED_HIGH = 0.22
"""A group that misses more than this share of its frames in two windows in a row is overloaded. The first step up costs
less than that.
"""
MISSED_AGAIN = 0.4
"""The same share for a group that has a limit. Frames that come close together, or that lose against cheaper ones, are
missed at any rate, and cutting the limit for these would lower what is served over and over."""
MISSED_LOW = 0.06
"""Where no more than this share is missed there may be room."""
HEADROOM = 1.1
"""A limit is this many times what was served: with some frames to choose from, batches are fuller and lanes busier."""
IDLE_FULL = 0.15
"""Lanes that are idle for more than this share of the time are not what frames are missed for."""
IDLE_ROOM = 0.25
"""Lanes that are idle for more than this share show how much more would fit."""
BUSY_AIM = 0.9
"""A limit is raised to keep such lanes busy for this share of the time."""
GROWTH_MAX = 4.0
"""No window raises a limit by more than this factor."""
STEP_MIN, STEP_MAX = 1.15, 1.6
"""Factors of a step, which raises a limit where nothing says how much more would fit."""
STEP_GROWTH = 1.5
"""A step is larger than the last one by this factor, if the last one lasted."""
STEP_NS = 2_500_000_000
"""Steps are this far apart, because the one before must reach the clients, be followed and show its effect."""
DWELL_MIN_NS, DWELL_MAX_NS = 4_000_000_000, 64_000_000_000
"""A cut is followed by no step for this long; a cut within RELAPSE_NS of a step doubles it."""
RELAPSE_NS = 16_000_000_000
FIT_WINDOWS = 3
"""A limit ends when the demand has fitted into it for this many windows in a row."""
RATE_GAIN_UP, RATE_GAIN_DOWN = 0.6, 0.3
"""Weights of the newest window in a stream's rate, for a window above that rate and for one below it."""
UNUSED = 0.6
"""A stream that sends less than this part of what it may send counts as asking for little more than it sends."""
SPARE = 1.3
"""Rates vary by this factor. A stream that sends up to this much more than it may still counts as a follower, and one
that does not use what it may send counts as asking for this much more than it sends."""
CHANGE_MIN = 0.13
"""Advice is given only if the period differs by this share or more."""
CHANGE_IGNORED_MIN = 0.5
"""The same share for a stream that ignores advice."""
AGAIN_NS = 2_000_000_000
"""Two pieces of advice to one stream are at least this far apart."""
REVERSAL_NS = 4_000_000_000
"""The same time where one says to slow down and the other to speed up."""
PERIOD_NS_MAX = 2_000_000_000
"""No stream is advised to send less often than this, as a stream that sends nothing never shows that there is room."""


class _Group:
    """The streams of one model and class, and what became of their frames in this window."""

    __slots__ = (
        "cut_ns",
        "dwell_ns",
        "elapsed_ns",
        "fits",
        "idle",
        "lanes",
        "limit",
        "missed",
        "missed_before",
        "others_served",
        "raised_ns",
        "served",
        "served_before",
        "settling",
        "step",
        "streams",
        "ticks",
    )

    def __init__(self) -> None:
        self.streams: list[tuple[int, StreamState]] = []
        self.limit = 0.0
        """Frames a second that all may send together; 0: as many as they like."""
        self.served_before = -1.0
        """Frames a second served in the window before, if that was overloaded; -1: it was not."""
        self.settling = False
        """Whether many streams got advice at the end of the last window, whose effect this one does not show yet."""
        self.lanes: set[str] = set()
        """Lanes that serve the model."""
        self.missed_before = 0.0
        """Share of its frames that were missed in the last window."""
        self.fits = 0
        """Windows in a row in which the demand fitted into the limit."""
        self.step = STEP_MIN
        self.dwell_ns = DWELL_MIN_NS
        self.cut_ns = 0
        """When the limit was last set by overload."""
        self.raised_ns = -RELAPSE_NS
        """When the limit was last raised by a step."""
        self.begin()

    def begin(self) -> None:
        """Begins a window."""
        self.served = self.missed = self.ticks = 0
        self.elapsed_ns = 0
        self.idle = 0.0
        """Sum over the ticks of the share of time that the lanes were idle."""
        self.others_served = False
        """Whether the lanes of a CRITICAL group served another class meanwhile."""


class Adviser:
    """Decides which advice the streams get."""

    __slots__ = ("_groups", "_idle_ns", "_ticked_ns", "due_ns")

    def __init__(self) -> None:
        self.due_ns = 0
        """`tick` is to be called with the first event from then on."""
        self._ticked_ns = -1
        self._groups: dict[tuple[str, StreamClass], _Group] = {}
        """The groups that have open streams."""
        self._idle_ns: dict[str, int] = {}
        """How long each lane had been idle in all at the last tick."""

    def tick(
        self,
        now_ns: int,
        streams: Mapping[int, StreamState],
        models: Mapping[str, ModelState],
        lanes: Mapping[str, LaneState],
    ) -> list[AdviseStream]:
        """Returns the advice that is due now, and begins the streams' counts anew."""
        elapsed_ns = now_ns - self._ticked_ns if self._ticked_ns >= 0 else 0
        self._ticked_ns, self.due_ns = now_ns, now_ns + TICK_NS
        idle = self._idle_shares(now_ns, elapsed_ns, lanes)
        self._gather(streams)
        # Lanes that have served streams of other classes than CRITICAL.
        shared: set[str] = set()
        for (name, stream_class), group in self._groups.items():
            model = models.get(name)
            variants = model.variants.values() if model is not None else []
            group.lanes = {lane for variant in variants for lane in variant.profiles if lane in idle}
            if stream_class is not StreamClass.CRITICAL and any(stream.pace.served for _, stream in group.streams):
                shared |= group.lanes
        advice: list[AdviseStream] = []
        for (_, stream_class), group in self._groups.items():
            own = group.lanes
            for _, stream in group.streams:
                pace = stream.pace
                group.served += pace.served
                group.missed += pace.missed
                pace.served = pace.missed = 0
            group.elapsed_ns += elapsed_ns
            group.ticks += 1
            group.idle += sum([idle[lane] for lane in own]) / len(own) if own else 1.0
            group.others_served |= stream_class is StreamClass.CRITICAL and not own.isdisjoint(shared)
            ended = group.served + group.missed
            if group.elapsed_ns > 0 and (ended >= WINDOW_FRAMES or group.ticks >= WINDOW_TICKS_MAX):
                advice += _judged(now_ns, group, self._lanes_full(stream_class, group))
                group.begin()
        return advice

    def _lanes_full(self, stream_class: StreamClass, group: _Group) -> bool:
        """Whether another group that is as critical misses frames on the same lanes, so that more for one is less for
        the other.
        """
        return any(
            other is not group and other_class <= stream_class and other.missed_before > MISSED_LOW
            for (_, other_class), other in self._groups.items()
            if not other.lanes.isdisjoint(group.lanes)
        )

    def _gather(self, streams: Mapping[int, StreamState]) -> None:
        """Puts the open streams into their groups anew, because streams change their model."""
        for group in self._groups.values():
            group.streams.clear()
        for stream_id, stream in streams.items():
            key = stream.model, stream.terms.stream_class
            known = self._groups.get(key)
            if known is None:
                known = self._groups[key] = _Group()
            known.streams.append((stream_id, stream))
        for key in [key for key, group in self._groups.items() if not group.streams]:
            del self._groups[key]

    def _idle_shares(self, now_ns: int, elapsed_ns: int, lanes: Mapping[str, LaneState]) -> dict[str, float]:
        """Returns, for each lane that is up, the share of the time since the last tick in which it ran nothing."""
        idle_ns = {
            name: lane.idle_ns + (now_ns - lane.ended_ns if lane.batch_id is None else 0)
            for name, lane in lanes.items()
        }
        shares = {
            name: max(0, total_ns - self._idle_ns.get(name, 0)) / max(1, elapsed_ns)
            for name, total_ns in idle_ns.items()
        }
        self._idle_ns = idle_ns
        return shares


def _judged(now_ns: int, group: _Group, lanes_full: bool) -> list[AdviseStream]:
    """Ends a window. Returns the advice that the streams of the group get."""
    for _, stream in group.streams:
        _measure(stream, now_ns, group.elapsed_ns)
    _set_limit(now_ns, group, lanes_full)
    caps = _shares(group) if group.limit else {}
    advice: list[AdviseStream] = []
    for stream_id, stream in group.streams:
        if stream.terms.advise and stream.terms.gap is None:
            advised = _advice(now_ns, stream_id, stream.pace, caps.get(stream_id, 0.0))
            if advised is not None:
                advice.append(advised)
                _weigh(stream)
    group.settling = len(advice) * 4 > len(group.streams)
    return advice


def _measure(stream: StreamState, now_ns: int, elapsed_ns: int) -> None:
    """Notes how often the stream sends, and how often it would."""
    pace = stream.pace
    rate = pace.arrived * 1e9 / elapsed_ns
    pace.arrived = 0
    if pace.told_ns >= 0 and now_ns - pace.told_ns <= elapsed_ns:
        pace.rate = -1.0  # it got advice when the window began, and follows within it
        return
    if pace.rate < 0:
        # The stream may have opened in the middle of the window.
        stated = stream.terms.period_ns if pace.told_ns < 0 else 0
        pace.rate = max(rate, 1e9 / stated) if stated > 0 else rate
    else:
        pace.rate += (rate - pace.rate) * (RATE_GAIN_UP if rate > pace.rate else RATE_GAIN_DOWN)
    allowed = 1e9 / pace.period_ns if pace.period_ns else 0.0
    # A frame or two more or less in a window may be its phase.
    pace.follows = allowed > 0 and pace.rate <= allowed * SPARE + 2e9 / elapsed_ns
    if not pace.follows:
        pace.natural = pace.rate  # nothing holds it back, or it ignores what does
    _weigh(stream)
    pace.demand = pace.natural
    if pace.rate < allowed * UNUSED - 1e9 / elapsed_ns:
        pace.demand = min(pace.natural, pace.rate * SPARE)


def _weigh(stream: StreamState) -> None:
    """Lets the frames of a follower count for those that it keeps back."""
    pace = stream.pace
    stream.merit.thinned(max(0.0, pace.natural * pace.period_ns / 1e9 - 1) if pace.follows else 0.0)


def _set_limit(now_ns: int, group: _Group, lanes_full: bool) -> None:
    """Cuts, raises or ends the limit of the group by what became of its frames in the window."""
    ended = group.served + group.missed
    missed = group.missed_before = group.missed / ended if ended else 0.0
    idle = group.idle / group.ticks
    rate = group.served * 1e9 / group.elapsed_ns
    missed_high = MISSED_AGAIN if group.limit else MISSED_HIGH
    overloaded = ended > 0 and missed > missed_high and idle <= IDLE_FULL and not group.others_served
    before, group.served_before = group.served_before, rate if overloaded and not group.settling else -1.0
    if group.served_before >= 0 and before >= 0:
        seen = max((rate + before) / 2 * HEADROOM, len(group.streams) * 1e9 / PERIOD_NS_MAX)
        if not group.limit or seen < group.limit or seen > group.limit * (1 + CHANGE_IGNORED_MIN):
            group.limit = seen
        if now_ns - group.raised_ns < RELAPSE_NS:
            group.dwell_ns = min(2 * group.dwell_ns, DWELL_MAX_NS)
        elif now_ns - group.cut_ns > RELAPSE_NS + group.dwell_ns:
            group.dwell_ns = DWELL_MIN_NS
        group.raised_ns = now_ns - RELAPSE_NS
        group.cut_ns = now_ns
        group.step = STEP_MIN
    elif group.limit and not overloaded and not group.settling:
        dwelt = now_ns - group.cut_ns >= group.dwell_ns and now_ns - group.raised_ns >= STEP_NS
        if idle >= IDLE_ROOM:
            group.limit *= min(GROWTH_MAX, BUSY_AIM / max(1e-9, 1 - idle))
        elif missed <= MISSED_LOW and not lanes_full and dwelt:
            group.limit *= group.step
            group.step = min(1 + (group.step - 1) * STEP_GROWTH, STEP_MAX)
            group.raised_ns = now_ns
    demand = sum([stream.pace.demand for _, stream in group.streams])
    fits = group.limit > 0 and not overloaded and demand <= group.limit
    group.fits = group.fits + 1 if fits else 0
    if group.fits >= FIT_WINDOWS:
        group.limit, group.fits = 0.0, 0


def _shares(group: _Group) -> dict[int, float]:
    """Returns how many frames a second each stream may send."""
    floors = {stream_id: _floor(stream) for stream_id, stream in group.streams}
    left = max(0.0, group.limit - sum(floors.values()))
    wanted: dict[str, float] = {}
    for stream_id, stream in group.streams:
        principal = stream.terms.principal
        wanted[principal] = wanted.get(principal, 0.0) + stream.pace.demand - floors[stream_id]
    level = _level(list(wanted.values()), left)
    caps: dict[int, float] = {}
    for stream_id, stream in group.streams:
        asked = wanted[stream.terms.principal]
        part = level / asked if asked > 0 else 1.0
        floor = floors[stream_id]
        caps[stream_id] = max(floor + (stream.pace.natural - floor) * part, 1e9 / PERIOD_NS_MAX)
    return caps


def _floor(stream: StreamState) -> float:
    """Returns how many frames a second the stream's floor asks for."""
    terms = stream.terms
    return stream.pace.demand * terms.floor_frames / terms.floor_window if terms.floor_window else 0.0


def _level(wanted: list[float], available: float) -> float:
    """Returns the level up to which each gets what it wants, where all together get what is available."""
    left, count = available, len(wanted)
    for want in sorted(wanted):
        if want * count >= left:
            return left / count
        left -= want
        count -= 1
    # Nobody is held back; what is left is for whoever wants more.
    return max(wanted, default=0.0) + max(0.0, left)


def _advice(now_ns: int, stream_id: int, pace: StreamPace, cap: float) -> AdviseStream | None:
    """Returns the advice for a stream that may send `cap` frames a second (0: as many as it likes); None: no advice."""
    period_ns = round(1e9 / cap) if cap and cap < pace.natural * (1 - CHANGE_MIN) else 0
    known_ns = pace.period_ns
    if period_ns == known_ns:
        return None
    slower = period_ns > 0 and (known_ns == 0 or period_ns > known_ns)
    change_min = CHANGE_MIN if pace.follows else CHANGE_IGNORED_MIN
    if period_ns and known_ns and abs(period_ns - known_ns) < change_min * known_ns:
        return None
    pause_ns = AGAIN_NS if slower == pace.slowed else REVERSAL_NS
    if pace.told_ns >= 0 and now_ns - pace.told_ns < pause_ns:
        return None
    pace.period_ns, pace.told_ns, pace.slowed = period_ns, now_ns, slower
    if slower:
        reason = f"overload: of {pace.natural:.3g} frames a second {cap:.3g} can be served in time"
        return AdviseStream(stream_id, Advice.SLOW_DOWN, reason, period_ns)
    reason = f"there is room for {cap:.3g} frames a second" if period_ns else "there is room for all frames"
    return AdviseStream(stream_id, Advice.SPEED_UP, reason, period_ns)
