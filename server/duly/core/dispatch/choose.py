"""What a free lane does next: run which batch, or hold. Here the policies come together.

    every variant with frames waiting: its batch on this lane ................... batch_window
    classes in order of precedence; the class that is owed a share goes first ... best_effort_share
    do all batches of the class fit, one after another? ......................... overload.fits_serially
      yes: the earliest latest start, unless it may grow while others run ....... deferral
      no:  the best rate, frames of higher merit first .......................... batch_window.best_window, overload

CRITICAL streams were admitted by a schedulability proof (`critical_proof`) that assumes EDF order and at most one
blocking batch. So among CRITICAL batches the earliest deadline goes first; a batch takes no frame before its turn,
neither of its own class nor of a lower one, while CRITICAL frames of other variants wait; nothing holds; and density
rules only once a CRITICAL frame has been missed, when the guarantee was not given or is broken.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from duly.core.backlog import keeps_all
from duly.core.dispatch.batch_window import best_window, keeps_up, largest_size
from duly.core.dispatch.best_effort_share import STRICT, ClassShares
from duly.core.dispatch.deferral import may_hold, ripe_at_ns
from duly.core.dispatch.large_frames import Startable, extra_ns, fitted
from duly.core.dispatch.overload import EDGE_PERCENT, RIPE_FACTOR, fits_serially, worthiest
from duly.core.merit import FLOOR_MERIT
from duly.core.model_table import ModelTable
from duly.core.state import Batch, StreamState, VariantState
from duly.core.timing.arrival_rate import lanes_needed
from duly.core.timing.profile import Plan, Profile
from duly.core.types import StreamClass
from duly.core.waiting import Entry, QueuedFrame


@dataclass(slots=True)
class Hold:
    until_ns: int


@dataclass(slots=True)
class DispatchContext:
    """What a choice rests on, apart from the lane itself."""

    variants: list[VariantState]
    """At least all variants that have frames waiting; the order decides between equals."""
    streams: dict[int, StreamState]
    lanes: int
    """Number of lanes that are up."""
    lanes_free: int
    best_effort: bool
    """Whether BEST_EFFORT streams are open."""
    cap_ns: Mapping[StreamClass, int]
    """The longest that a batch of two or more may block the lane, for each class."""
    shares: ClassShares
    promised: bool
    """Whether CRITICAL streams are open."""
    critical_missed: bool
    """Whether a CRITICAL frame was missed lately."""
    merit: Callable[[QueuedFrame], float]
    freshness: Callable[[QueuedFrame], float]
    """The worth of a frame when a window is chosen."""
    floors: int = 0
    """Number of open streams that have a floor."""
    models: ModelTable = field(default_factory=ModelTable)
    to_read: list[QueuedFrame] = field(default_factory=list)
    """Frames that no lane may read now, and the host can read beside them."""
    draining: bool = False
    """Whether no more frames will come, so that there is nothing to hold for."""

    def for_one_lane(self, lanes: int) -> "DispatchContext":
        """A copy for a choice that nothing else may hear of, as if one lane of so many were free."""
        return replace(self, lanes=lanes, lanes_free=1, shares=self.shares.copy(), to_read=[])


class _Candidate:
    __slots__ = (
        "deadline_ns",
        "entries",
        "extra_ns",
        "first",
        "latest_start_ns",
        "lists",
        "plan",
        "profile",
        "size",
        "variant",
        "waiting",
    )

    def __init__(
        self,
        variant: VariantState,
        profile: Profile,
        plan: Plan,
        lists: list[list[Entry]],
        entries: list[Entry],
        first: int,
    ) -> None:
        self.variant = variant
        self.profile = profile
        self.plan = plan
        """The plan by which batches are formed: the profile's own, or the careful one."""
        self.lists = lists
        self.entries = entries
        """The waiting frames of the class that is to be served."""
        self.first = first
        """Index of the first entry that this lane can serve in time."""
        self.waiting = len(entries) - first
        """Number of entries from `first` on."""
        self.deadline_ns = entries[first][0]
        self.size = 0
        self.extra_ns = 0
        """What the frames of the batch take beyond usual ones."""
        self.latest_start_ns = 0

    def form(self, now_ns: int, cap_ns: int) -> None:
        slack_ns = self.deadline_ns - now_ns
        limit_ns = slack_ns if slack_ns < cap_ns else cap_ns
        self.size = largest_size(self.plan, limit_ns, self.waiting) if self.waiting > 1 else 1
        self.latest_start_ns = self.deadline_ns - self.plan.plan_ns[self.size]
        if self.variant.waiting.large:
            self.extra_ns = extra_ns(self.entries[self.first : self.first + self.size])
            # What the first takes is in its due time already.
            self.latest_start_ns -= self.extra_ns - self.entries[self.first][2].extra_ns

    def lanes_needed(self, now_ns: int) -> float:
        """How many lanes the model keeps busy at the rate at which its frames arrive now."""
        budget_ns = self.deadline_ns - self.entries[self.first][2].arrived_ns
        return lanes_needed(self.plan, self.variant.arrivals.now(now_ns), budget_ns)


def next_batch(now_ns: int, lane: str, context: DispatchContext) -> Batch | Hold | None:
    """What the lane does next; None where nothing waits that it could serve in time."""
    chosen = _chosen(now_ns, lane, context)
    if not isinstance(chosen, Batch):
        return chosen
    if len(chosen.frames) > 1:
        for nth, queued in enumerate(chosen.frames):
            if queued.alone:
                chosen = _cut(chosen, max(nth, 1), lane)
                break
    if chosen.variant.waiting.large:
        startable = Startable(now_ns, context.streams, context.models)
        cap_ns = context.cap_ns[chosen.frames[0].stream_class]
        return fitted(now_ns, chosen, chosen.variant.profiles[lane], cap_ns, startable)
    return chosen


def foreseen(at_ns: int, lane: str, lanes: int, context: DispatchContext) -> Batch | None:
    """What `next_batch` would be at a later time, if nothing happened until then. None: nothing, or it is not known, as
    with large frames, of which a choice notes what it held back. It changes nothing. `lanes`: how many are up.
    """
    if any([variant.waiting.large for variant in context.variants]):
        return None
    chosen = next_batch(at_ns, lane, context.for_one_lane(lanes))
    return chosen if isinstance(chosen, Batch) else None


def _cut(batch: Batch, size: int, lane: str) -> Batch:
    """The beginning of the batch, as a frame that must be alone comes first, or next. The rest has its turn later."""
    planned_ns = batch.variant.profiles[lane].plan_ns[size]
    return Batch(batch.variant, batch.frames[:size], planned_ns, by_overload=batch.by_overload)


def _chosen(now_ns: int, lane: str, context: DispatchContext) -> Batch | Hold | None:
    order = context.shares.order(_planned_best_effort_ns(lane, context.variants)) if context.best_effort else STRICT
    stream_class, candidates = _candidates(now_ns, lane, context, order)
    if not candidates:
        return None
    cap_ns = context.cap_ns[stream_class]
    for candidate in candidates:
        candidate.form(now_ns, cap_ns)
    critical = stream_class is StreamClass.CRITICAL
    if critical and not context.critical_missed:
        return _critical_batch(now_ns, candidates, cap_ns)
    if len(candidates) > 1:
        candidates.sort(key=_latest_start)
    if context.lanes_free == 1 and not _all_fit(now_ns, candidates, context.lanes):
        return _densest(now_ns, candidates, context, cap_ns)
    chosen = candidates[0]
    if not critical and not context.draining and _may_hold(now_ns, candidates, context.lanes):
        ripe = [_ripe_at_ns(c, context) for c in candidates]
        if min(ripe) > now_ns:
            return Hold(min(ripe))
        chosen = next(c for c, from_ns in zip(candidates, ripe, strict=True) if from_ns <= now_ns)
    return _grown(now_ns, chosen, order, cap_ns)


def something_waits(now_ns: int, lane: str, context: DispatchContext) -> bool:
    """Whether anything waits that the lane could serve in time."""
    return bool(_candidates(now_ns, lane, context, tuple(StreamClass))[1])


def _latest_start(candidate: _Candidate) -> int:
    return candidate.latest_start_ns


def _deadline(candidate: _Candidate) -> int:
    return candidate.deadline_ns


def _planned_best_effort_ns(lane: str, variants: list[VariantState]) -> int:
    """The shortest plan of a batch of one among variants with BEST_EFFORT frames waiting; 1 where there are none."""
    best_effort = StreamClass.BEST_EFFORT
    return min(
        (v.profiles[lane].plan_ns[1] for v in variants if v.waiting.by_class[best_effort] and lane in v.profiles),
        default=1,
    )


def _candidates(
    now_ns: int, lane: str, context: DispatchContext, order: Sequence[StreamClass]
) -> tuple[StreamClass, list[_Candidate]]:
    """The first class of `order` with frames that the lane could serve in time, and a candidate for each of their
    variants.
    """
    first_class = len(order) - 1
    candidates: list[_Candidate] = []
    startable = Startable(now_ns, context.streams, context.models)
    for variant in context.variants:
        profile = variant.profiles.get(lane) if variant.waiting.count else None
        if profile is None:
            continue
        lists = variant.runnable(lane, context.streams)
        if variant.waiting.large:
            lists = startable.of(lists, profile)
            context.to_read += startable.to_read
            startable.to_read.clear()
        from_ns = now_ns + profile.plan_ns[1]
        for nth in range(first_class + 1):
            entries = lists[order[nth]]
            # If the last one is too late, all are.
            if entries and entries[-1][0] >= from_ns:
                first = 0
                while entries[first][0] < from_ns:
                    first += 1
                if nth < first_class:
                    first_class, candidates = nth, []
                plan = profile.careful if context.promised else profile
                candidates.append(_Candidate(variant, profile, plan, lists, entries, first))
                break
    return order[first_class], candidates


def _all_fit(now_ns: int, candidates: list[_Candidate], lanes: int) -> bool:
    """Whether all candidates can be served, each by its part of the lanes. They come in order of latest starts."""
    several = len(candidates) > 1
    if several:
        urgencies = [(c.latest_start_ns, c.plan.usual_ns[c.size] + c.extra_ns, c.size) for c in candidates]
        if not fits_serially(now_ns, lanes, urgencies):
            return False
    needed: list[float] = []
    for nth, c in enumerate(candidates):
        if c.size < c.waiting or not several:
            share = float(lanes)
            if several:
                needed = needed or [candidate.lanes_needed(now_ns) for candidate in candidates]
                if needed[nth]:
                    share = lanes * needed[nth] / sum(needed)
            entries = c.entries[c.first :] if c.first else c.entries
            if not keeps_up(entries, c.plan, now_ns, c.variant.arrivals.now(now_ns), share):
                return False
    return True


def _may_hold(now_ns: int, candidates: list[_Candidate], lanes: int) -> bool:
    # Demand is measured only where it matters: not where even a demand for all lanes would not let the lane hold.
    if not may_hold(lanes, len(candidates), lanes):
        return False
    return may_hold(lanes, len(candidates), sum([candidate.lanes_needed(now_ns) for candidate in candidates]))


def _ripe_at_ns(candidate: _Candidate, context: DispatchContext) -> int:
    c = candidate
    until_ns = ripe_at_ns(c.plan, c.size, c.waiting, c.deadline_ns)
    if until_ns and all(keeps_all(context.streams[entry[2].frame.stream_id].terms) for entry in c.entries):
        return until_ns
    return 0


def _critical_batch(now_ns: int, candidates: list[_Candidate], cap_ns: int) -> Batch:
    candidates.sort(key=_deadline)
    chosen = candidates[0]
    if len(candidates) == 1:
        return _grown(now_ns, chosen, tuple(StreamClass), cap_ns)
    turn_ns = candidates[1].deadline_ns
    size = chosen.size
    while size > 1 and chosen.entries[chosen.first + size - 1][0] > turn_ns:
        size -= 1
    size = chosen.plan.largest_efficient(size)
    frames = [entry[2] for entry in chosen.entries[chosen.first : chosen.first + size]]
    return Batch(chosen.variant, frames, chosen.profile.plan_ns[size])


def _densest(now_ns: int, candidates: list[_Candidate], context: DispatchContext, cap_ns: int) -> Batch:
    shortest_ns = min([c.plan.usual_ns[1] for c in candidates])
    best: Batch | None = None
    best_density = 0.0
    for c in candidates:
        begin, size = best_window(c.entries, c.first, c.plan, now_ns, cap_ns, context.freshness)
        floor = _first_for_a_floor(c, begin, context) if context.floors and begin > c.first else None
        if floor is not None:
            limit_ns = min(c.entries[floor][0] - now_ns, cap_ns)
            begin, size = floor, largest_size(c.plan, limit_ns, len(c.entries) - floor)
        edge_ns = now_ns + c.plan.plan_ns[1] * EDGE_PERCENT // 100 if size == 1 else 0
        frames, value = worthiest(c.entries, begin, size, c.plan.batch_max, context.merit, edge_ns)
        density = value / (
            c.plan.usual_ns[size] + (sum([queued.extra_ns for queued in frames]) if c.variant.waiting.large else 0)
        )
        waiting = len(c.entries) - begin
        if len(candidates) > 1 and ripe_at_ns(c.plan, size, waiting, c.entries[begin][0]) < now_ns + shortest_ns:
            density *= RIPE_FACTOR
        if best is None or density > best_density:
            best_density = density
            best = Batch(c.variant, frames, c.profile.plan_ns[size], by_overload=True)
    assert best is not None
    return best


def _first_for_a_floor(candidate: _Candidate, begin: int, context: DispatchContext) -> int | None:
    """Index of the first frame before `begin` that its stream's floor depends on; no window may pass over that one."""
    passed_over = range(candidate.first, begin)
    return next((nth for nth in passed_over if context.merit(candidate.entries[nth][2]) >= FLOOR_MERIT), None)


def _grown(now_ns: int, chosen: _Candidate, order: Sequence[StreamClass], cap_ns: int) -> Batch:
    """The batch of `chosen`, grown for free with frames of the classes that come after its own."""
    first, size = chosen.first, chosen.size
    entries = chosen.entries
    frames = [entry[2] for entry in (entries if size == len(entries) else entries[first : first + size])]
    if size == chosen.waiting and size < chosen.variant.waiting.count and size < chosen.plan.batch_max:
        own = order.index(frames[0].stream_class)
        frames += _riders(now_ns, chosen, [chosen.lists[stream_class] for stream_class in order[own + 1 :]], cap_ns)
    return Batch(chosen.variant, frames, chosen.profile.plan_ns[len(frames)])


def _riders(now_ns: int, chosen: _Candidate, behind: list[list[Entry]], cap_ns: int) -> list[QueuedFrame]:
    """As many frames of the classes `behind` as the batch has room for. Frames about to expire are passed over: under
    load there always is one, which would keep all batches small.
    """
    plan, size = chosen.plan, chosen.size
    for total in range(min(plan.batch_max, chosen.variant.waiting.count), size, -1):
        planned_ns = plan.plan_ns[total]
        if planned_ns > cap_ns or now_ns + planned_ns > chosen.deadline_ns or plan.largest_efficient(total) != total:
            continue
        riders: list[QueuedFrame] = []
        for entries in behind:
            first = bisect_left(entries, (now_ns + planned_ns,))
            riders += [entry[2] for entry in entries[first : first + total - size - len(riders)]]
        if len(riders) == total - size:
            return riders
    return []
