"""Which variant serves a model's streams: a controller that trades accuracy for capacity, and back.

Theory of operation. The streams of a model stand on one ladder. Position 0 serves every class with rank 0, the most
accurate variant; each step down moves one class by one rank: first BEST_EFFORT through all ranks, then STANDARD, then
CRITICAL.

    2 ranks    position      0  1  2  3
               BEST_EFFORT   0  1  1  1
               STANDARD      0  0  1  1
               CRITICAL      0  0  0  1

Each position has a predicted demand, the share of the model's lanes that its streams would need there. A step that
saves nothing (its class has no streams, or none that may be served worse, or the variant is not faster here) is passed
over, so that a model with streams of one class only never waits for the others' steps.

The controller goes down at once, to the first position that is predicted to need less than DEMAND_AIM; if there is
none, to the one that needs least. A step to 1.5x overload then takes one switch, or a second one where the prediction
was too good. Two things make it go down: misses that were seen, and demand that is foreseen. Misses have to show in
both ticks of the window, since a single hiccup is over before a switch would help. Misses of the tick that follows a
switch are of frames that waited before it, and don't count. Many misses also correct the prediction, since lanes that
serve one frame in s have a demand of s. Few misses don't, since bursts and the batches of other models cause them too.

The controller goes up only where the demand, recomputed for the better position, has been below DEMAND_LOW for CALM_NS
without misses. The gap between the thresholds keeps it still while demand lies between them (separate set and unset
thresholds: INFaaS, ATC'21; switching variants by predicted demand: Proteus, ASPLOS'24). Where prediction and misses
disagree, it would still swing; so each fall soon after a rise doubles the dwell before the next rise.

The dwell holds back rises alone. A fall that comes too late costs frames that are gone for good. A fall that comes too
early costs a little accuracy for a few seconds, and there are no more of them in a row than there are positions.

Out of scope: single frames that only a faster variant can still serve in time, which the scheduler moves by itself.
"""

from collections.abc import Mapping, Sequence

from duly.core.types import StreamClass

TICK_NS = 250_000_000
"""How often the host of a controller calls `tick`."""
MISSED_PERCENT = 1
"""The controller goes down when more than this share of the frames of two ticks missed."""
HEAVY_PERCENT = 10
"""From this share on, misses correct the predicted demand."""
DEMAND_HIGH = 0.95
"""The controller goes down when demand exceeds this for HIGH_TICKS ticks in succession."""
HIGH_TICKS = 3
DEMAND_AIM = 0.90
"""A fall ends at the first position with less demand than this."""
DEMAND_LOW = 0.80
"""The controller goes up when a better position has had less demand than this for CALM_NS."""
CALM_NS = 5_000_000_000
DWELL_MIN_NS = 2_000_000_000
"""The least time from a switch to the next rise. A fall within DWELL_MAX_NS of a rise doubles it, a later one resets
it.
"""
DWELL_MAX_NS = 60_000_000_000

_FIRST_TO_YIELD = (StreamClass.BEST_EFFORT, StreamClass.STANDARD, StreamClass.CRITICAL)


class VariantControl:
    """The ladder of one model and where its streams stand on it."""

    __slots__ = (
        "_calm_since_ns",
        "_changed_ns",
        "_dwell_ns",
        "_high_ticks",
        "_last_missed",
        "_last_total",
        "_position",
        "_rank_last",
        "_rose",
        "_settling",
    )

    def __init__(self, ranks: int) -> None:
        """`ranks` is the number of variants; rank 0 is the most accurate. Raises ValueError where there are none."""
        if ranks < 1:
            raise ValueError(f"a model has 1 variant or more, got {ranks}")
        self._rank_last = ranks - 1
        self._position = 0
        self._calm_since_ns: list[int | None] = [None] * (len(_FIRST_TO_YIELD) * self._rank_last + 1)
        """For each position, the time since which its demand is low and nothing missed; None: it is not so now."""
        self._changed_ns = 0
        self._rose = False
        """Whether the last switch was a rise."""
        self._dwell_ns = DWELL_MIN_NS
        self._high_ticks = 0
        self._settling = False
        self._last_missed = 0
        self._last_total = 0

    def rank_for(self, stream_class: StreamClass, rank_max: int) -> int:
        """The rank of the variant for a new frame of a stream of that class that accepts ranks up to `rank_max`."""
        return min(self._rank_at(self._position, stream_class), rank_max)

    def tick(
        self,
        now_ns: int,
        on_time: int,
        missed: int,
        demands: Mapping[StreamClass, Sequence[float]],
        others: float = 0.0,
    ) -> bool:
        """Decides on the position; has to be called every TICK_NS. Returns True where the position changed, so that
        `rank_for` answers differently.

        `on_time` and `missed` are the frames of the model that were resolved since the last tick; missed are SHED, LATE
        and EXPIRED. `demands[stream_class][rank]` is the predicted share of the model's lanes (1.0: all of them, all
        the time) that the streams of that class need if they are served with that rank, each at most with its own
        `variant_rank_max`. There is one value for each rank; classes without streams are left out. `others` is the
        share that other models need of the same lanes. Models that share lanes tick one after another, each with what
        the others need *now*, so that the second sees what the step of the first has saved. Raises ValueError where a
        class comes with too few or too many values.
        """
        for stream_class, by_rank in demands.items():
            if len(by_rank) != self._rank_last + 1:
                raise ValueError(f"{stream_class.name} needs {self._rank_last + 1} demands, one a rank, got {by_rank}")
        shares = [self._share(position, demands, others) for position in range(len(self._calm_since_ns))]
        missed_share = self._missed_share(on_time, missed)
        self._high_ticks = self._high_ticks + 1 if shares[self._position] > DEMAND_HIGH else 0
        for position, share in enumerate(shares):
            if missed or share >= DEMAND_LOW:
                self._calm_since_ns[position] = None
            elif self._calm_since_ns[position] is None:
                self._calm_since_ns[position] = now_ns
        falls = missed_share * 100 > MISSED_PERCENT or self._high_ticks >= HIGH_TICKS
        target = self._lower(shares, missed_share) if falls else self._higher(now_ns)
        if target == self._position:
            return False
        if falls:
            flipped = self._rose and now_ns - self._changed_ns < DWELL_MAX_NS
            if flipped:
                self._dwell_ns = min(2 * self._dwell_ns, DWELL_MAX_NS)
            elif self._rose:
                self._dwell_ns = DWELL_MIN_NS
        self._rose = not falls
        self._position = target
        self._changed_ns = now_ns
        self._high_ticks = 0
        self._settling = True
        return True

    def _rank_at(self, position: int, stream_class: StreamClass) -> int:
        steps = position - _FIRST_TO_YIELD.index(stream_class) * self._rank_last
        return max(0, min(steps, self._rank_last))

    def _share(self, position: int, demands: Mapping[StreamClass, Sequence[float]], others: float) -> float:
        share = others
        for stream_class in _FIRST_TO_YIELD:
            if stream_class in demands:
                share += demands[stream_class][self._rank_at(position, stream_class)]
        return share

    def _missed_share(self, on_time: int, missed: int) -> float:
        """The share of frames that missed in the last two ticks; 0 unless frames were missed in both."""
        if self._settling:
            self._settling = False
            self._last_missed = self._last_total = 0
            return 0.0
        lasting = self._last_missed and missed
        share = (self._last_missed + missed) / (self._last_total + on_time + missed) if lasting else 0.0
        self._last_missed, self._last_total = missed, on_time + missed
        return share

    def _lower(self, shares: Sequence[float], missed_share: float) -> int:
        """The first position further down that needs less than DEMAND_AIM, else the one that needs least. Positions
        that save nothing are passed over.
        """
        best = self._position
        correction = 1.0
        if missed_share * 100 >= HEAVY_PERCENT and shares[best] > 0:
            correction = max(1.0, 1 / max(0.01, 1 - missed_share) / shares[best])
        for position in range(best + 1, len(shares)):
            if shares[position] < shares[best]:
                best = position
                if shares[best] * correction < DEMAND_AIM:
                    break
        return best

    def _higher(self, now_ns: int) -> int:
        """The best position that has been calm for long enough, else the present one."""
        if now_ns - self._changed_ns >= self._dwell_ns:
            for position in range(self._position):
                since_ns = self._calm_since_ns[position]
                if since_ns is not None and now_ns - since_ns >= CALM_NS:
                    return position
        return self._position
