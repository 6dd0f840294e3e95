"""Whether a stream may open, and if not, what would fit.

Theory. Frames of one model come at a rate of r; its tightest budget is D. A batch of b is planned as a b + c (a line
no lower than the plan). If the lanes come round to the model every V, a batch holds r V frames. A frame that just
missed one waits V, is blocked for B by another batch, and then runs along: V + B + a r V + c <= D. So the visit period
is

    V = (D - c - B) / (1 + a r),

at most what fills the largest batch (by its cap, see `batch_caps`). A model takes a r + c / V of a lane, and no
more than frames run one by one, r planned(1), which holds where fewer than one frame comes within V. Streams fit if
every model has D >= planned(1) + B and the lanes hold the sum: all models together at most `lanes`, and each model
within the lanes that serve it. For the latter, models are poured into their lanes, those with the fewest lanes first,
each to the lowest level that holds it. The result is a share of lane time that exists, so the test is sound; where
lane groups are nested or apart it is exact.

B is the longest batch of another model, or of a less critical stream of the same model, divided by the model's lanes,
as the first of them is free that much sooner. In V, B counts only models that the lanes come round to less often: the
others have their turn within V.

Only streams as critical as the candidate or more take part; less critical ones only block. BEST_EFFORT streams are shed
under overload, so this analysis never refuses them. CRITICAL streams must also pass `critical_proof`, and no stream may
open whose batches would break what others were promised by that proof. Variants: all streams run at the most accurate
variant if that fits, else at one step less accurate after another, each stream as far as it allows.

Periodic arrivals and a scheduler without waste are assumed; near the limit, `rollout` decides (`needs_rollout`). But
no scheduler takes less lane time than r min over b of planned(b) / b. Where the lanes do not hold even that, the
refusal is final: a rollout is short, and would take budgets that are not yet used up for room.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt

from duly.core.admission.critical_proof import hard_schedulable
from duly.core.dispatch.batch_caps import caps_ns
from duly.core.types import ModelPlan, StreamClass, StreamDemand, Verdict, in_ms

ROLLOUT_UTILISATION_MIN = 0.6
ROLLOUT_UTILISATION_MAX = 1.3
"""Between these two the formula may be wrong either way: it knows neither phases nor how well batches really fill."""
PERIOD_FACTOR_MAX = 256
"""The longest period of a counter-offer, as a multiple of the request."""
BUDGET_FACTOR_MAX = 64
"""The largest budget of a counter-offer, as a multiple of the request."""
AMONG_EQUALS_PERCENT = 75
"""The longest batch that the formula counts with, as a share of the tightest budget of the most critical class. Longer
batches may run.
"""
BISECTIONS = 9
"""Number of tries for one counter-offer, which brings it within about 1 % of the least that fits."""


@dataclass(slots=True)
class _Load:
    """The demand of the counted streams of one model."""

    lanes: tuple[str, ...]
    sizes_ns: list[int]
    """Planned times of batches of 1, 2, ... up to the longest that may run, in the variant that the model is judged at.
    """
    rate: float = 0.0
    """Frames for each nanosecond; 0: no stream of the model is counted."""
    budget_ns: int = 0
    """The tightest budget of the counted streams."""
    uncounted: bool = False
    """Whether streams that are not counted also use the model; the longest batch may be theirs."""
    blocking_ns: int = 0
    """B, the longest batch that may block a frame of the model."""
    seldom_ns: int = 0
    """B, counting only models that the lanes come round to less often."""

    @property
    def fits(self) -> bool:
        return self.budget_ns >= self.sizes_ns[0] + self.blocking_ns

    @property
    def line(self) -> tuple[float, float]:
        """a and c of planned(b) <= a b + c: the chord, raised until it is nowhere below the plan."""
        largest = len(self.sizes_ns)
        if largest == 1:
            return float(self.sizes_ns[0]), 0.0
        per_frame = (self.sizes_ns[-1] - self.sizes_ns[0]) / (largest - 1)
        return per_frame, max(size_ns - per_frame * nth for nth, size_ns in enumerate(self.sizes_ns, start=1))

    @property
    def visit_ns(self) -> float:
        """V; 0 where the budget leaves no room for a visit, or where no stream is counted."""
        if not self.rate:
            return 0.0
        per_frame, per_batch = self.line
        room_ns = max(0.0, self.budget_ns - per_batch - self.seldom_ns)
        return min(room_ns / (1 + per_frame * self.rate), len(self.sizes_ns) / self.rate)

    @property
    def lane_share(self) -> float:
        per_frame, per_batch = self.line
        alone = self.rate * self.sizes_ns[0]
        visit_ns = self.visit_ns
        return min(alone, per_frame * self.rate + per_batch / visit_ns) if visit_ns > 0 else alone

    @property
    def longest_ns(self) -> int:
        """The longest batch: what arrives within V if nothing blocks, or the largest allowed one if it may be
        uncounted.
        """
        if self.uncounted:
            return max(self.sizes_ns)
        per_frame, per_batch = self.line
        return min(max(self.sizes_ns), max(self.sizes_ns[0], round(per_frame * self.rate * self.visit_ns + per_batch)))

    def latency_ns(self, utilisation: float) -> int:
        """The worst latency. Lanes with time to spare come round more often than every V."""
        per_frame, per_batch = self.line
        spare = len(self.lanes) * max(0.0, 1 - utilisation)
        visit_ns = self.visit_ns
        if visit_ns > 0:
            visit_ns = self.sizes_ns[0] / (self.sizes_ns[0] / visit_ns + spare)
        return round(visit_ns + self.seldom_ns + max(self.sizes_ns[0], per_frame * self.rate * visit_ns + per_batch))


def admit(
    candidate: StreamDemand, streams: Sequence[StreamDemand], models: Mapping[str, ModelPlan], lanes: int
) -> Verdict:
    """Whether `candidate` may open beside `streams`, the open ones. `lanes` is the number of lanes that are up.

    A refusal carries what would be accepted instead: a longer period, a larger budget or a less accurate variant. Each
    would do alone, and each is the smallest change that fits.
    """
    verdict = analyse(candidate, streams, models, lanes)
    if not verdict.accepted:
        _counter(verdict, candidate, streams, models, lanes)
    return verdict


def needs_rollout(verdict: Verdict) -> bool:
    """Whether the analysis is too close to call, so that a rollout should decide."""
    return not verdict.final and ROLLOUT_UTILISATION_MIN <= verdict.utilisation <= ROLLOUT_UTILISATION_MAX


def batch_caps_ns(streams: Sequence[StreamDemand], models: Mapping[str, ModelPlan]) -> dict[StreamClass, int]:
    """The caps of `batch_caps` for each class while these streams are open and these models are served."""
    tightest_ns: dict[StreamClass, int] = {}
    for stream in streams:
        known_ns = tightest_ns.get(stream.stream_class, stream.budget_ns)
        tightest_ns[stream.stream_class] = min(known_ns, stream.budget_ns)
    used = {stream.model for stream in streams}
    singles_ns = (sizes_ns[0] for name, plan in models.items() if name in used for sizes_ns in plan.ranks)
    return caps_ns(tightest_ns, max(singles_ns, default=0))


def analyse(
    candidate: StreamDemand, streams: Sequence[StreamDemand], models: Mapping[str, ModelPlan], lanes: int
) -> Verdict:
    """Like `admit`, without counter-offers."""
    plan = models.get(candidate.model)
    if plan is None or not plan.lanes or lanes < 1:
        return Verdict(False, f"no lane serves model {candidate.model}", 0.0, 0, final=True)
    single_ns = plan.ranks[min(candidate.variant_rank_max, len(plan.ranks) - 1)][0]
    if single_ns > candidate.budget_ns:
        reason = f"one frame of {candidate.model} takes {in_ms(single_ns)}, its budget is {in_ms(candidate.budget_ns)}"
        return Verdict(False, reason, 0.0, single_ns, final=True)
    everyone = [*streams, candidate]
    loads = _loads(candidate, everyone, models, 0)
    rank, rank_max = 0, max(len(known.ranks) for known in models.values()) - 1
    while rank < rank_max and (_unfit(loads) is not None or _utilisation(loads, lanes) > 1):
        rank += 1
        loads = _loads(candidate, everyone, models, rank)
    unfit = _unfit(loads)
    utilisation = _utilisation(loads, lanes)
    # With no period the candidate has no load of its own.
    latency_ns = loads[candidate.model].latency_ns(utilisation) if candidate.model in loads else single_ns
    reason = f"{utilisation:.0%} of lane time would be taken"
    if rank:
        reason += f" with variants down to rank {rank}"
    # Promises come first, even where the formula refuses, since a rollout may overturn the formula.
    fault = _hard_fault(everyone, models, lanes)
    if fault and candidate.stream_class is StreamClass.CRITICAL and candidate.period_ns:
        reason = f"can't be promised in the worst case: {fault}"
        return Verdict(False, reason, utilisation, latency_ns, final=True)
    if fault and not _hard_fault(streams, models, lanes):
        reason = f"would break what is promised to CRITICAL streams: {fault}"
        return Verdict(False, reason, utilisation, latency_ns, final=True)
    if not candidate.period_ns:
        return Verdict(True, "no expected period was stated: nothing is promised", utilisation, latency_ns)
    if candidate.stream_class is StreamClass.BEST_EFFORT:
        return Verdict(True, f"{reason}; shed first under overload", utilisation, latency_ns)
    least = _least_utilisation(candidate, everyone, models, lanes)
    if least > 1:
        reason = f"{least:.0%} of lane time would be taken even in the most efficient batches"
        return Verdict(False, reason, utilisation, latency_ns, final=True)
    if unfit is not None:
        load = loads[unfit]
        reason = (
            f"a frame of {unfit} may be blocked for {in_ms(load.blocking_ns)} and takes {in_ms(load.sizes_ns[0])}, "
            f"the smallest budget there is {in_ms(load.budget_ns)}"
        )
    return Verdict(unfit is None and utilisation <= 1, reason, utilisation, latency_ns)


def _loads(
    candidate: StreamDemand, everyone: Sequence[StreamDemand], models: Mapping[str, ModelPlan], rank: int
) -> dict[str, _Load]:
    """For each model, the demand of streams at least as critical as the candidate, at variant `rank` or the nearest
    that they accept.
    """
    cap_ns = batch_caps_ns(everyone, models)
    tightest_ns = min((stream.stream_class, stream.budget_ns) for stream in everyone)[1]
    equals_ns = tightest_ns * AMONG_EQUALS_PERCENT // 100
    loads: dict[str, _Load] = {}
    for stream in everyone:
        plan = models.get(stream.model)
        if plan is None or not plan.lanes:
            continue
        first_ns, *larger_ns = plan.ranks[min(rank, stream.variant_rank_max, len(plan.ranks) - 1)]
        longest_ns = min(equals_ns, cap_ns[stream.stream_class])
        sizes_ns = [first_ns, *(size_ns for size_ns in larger_ns if size_ns <= longest_ns)]
        load = loads.setdefault(stream.model, _Load(plan.lanes, sizes_ns))
        # Frames of one model share batches, at the most accurate variant that one of its streams insists on.
        if (first_ns, len(sizes_ns)) > (load.sizes_ns[0], len(load.sizes_ns)):
            load.sizes_ns = sizes_ns
        if stream.stream_class > candidate.stream_class or not stream.period_ns:
            load.uncounted = True
        else:
            load.budget_ns = min(load.budget_ns, stream.budget_ns) if load.rate else stream.budget_ns
            load.rate += 1 / stream.period_ns
    unblocked = {model: (load.longest_ns, load.visit_ns) for model, load in loads.items()}
    for model, load in loads.items():
        for other, (batch_ns, visit_ns) in unblocked.items():
            if (other != model or load.uncounted) and not set(load.lanes).isdisjoint(loads[other].lanes):
                batch_ns //= len(load.lanes)
                load.blocking_ns = max(load.blocking_ns, batch_ns)
                if loads[other].uncounted or visit_ns > unblocked[model][1]:
                    load.seldom_ns = max(load.seldom_ns, batch_ns)
    return {model: load for model, load in loads.items() if load.rate}


def _unfit(loads: Mapping[str, _Load]) -> str | None:
    """The first model whose tightest budget does not hold one frame behind a blocking batch; None: all do."""
    return next((model for model, load in loads.items() if not load.fits), None)


def _utilisation(loads: Mapping[str, _Load], lanes: int) -> float:
    """The share of lane time taken: on the fullest lane, or on average over all lanes if that is more."""
    level = {lane: 0.0 for load in loads.values() for lane in load.lanes}
    for _, model in sorted((len(load.lanes), model) for model, load in loads.items()):
        load = loads[model]
        own = sorted((level[lane], lane) for lane in load.lanes)
        height, below = 0.0, 0.0
        filled: list[str] = []
        for level_before, lane in own:
            # The lowest lanes are filled to one height; stop where the next lane is already above it.
            if filled and level_before >= height:
                break
            filled.append(lane)
            below += level_before
            height = (below + load.lane_share) / len(filled)
        level.update((lane, height) for lane in filled)
    return max([*level.values(), sum(load.lane_share for load in loads.values()) / lanes])


def _least_utilisation(
    candidate: StreamDemand, everyone: Sequence[StreamDemand], models: Mapping[str, ModelPlan], lanes: int
) -> float:
    """The share of lane time that any scheduler needs, on the fullest set of lanes that some models can't leave.

    Each stream counts with the least time for each frame that the caps of its class and its variants allow.
    """
    cap_ns = batch_caps_ns(everyone, models)
    frame_ns: dict[tuple[str, StreamClass, int], float] = {}
    shares: dict[frozenset[str], float] = {}
    for stream in everyone:
        plan = models.get(stream.model)
        if plan is None or not plan.lanes or not stream.period_ns or stream.stream_class > candidate.stream_class:
            continue
        key = (stream.model, stream.stream_class, stream.variant_rank_max)
        if key not in frame_ns:
            frame_ns[key] = min(
                size_ns / size
                for sizes_ns in plan.ranks[: stream.variant_rank_max + 1]
                for size, size_ns in enumerate(sizes_ns, start=1)
                if size == 1 or size_ns <= cap_ns[stream.stream_class]
            )
        own = frozenset(plan.lanes)
        shares[own] = shares.get(own, 0.0) + frame_ns[key] / stream.period_ns
    held = [sum(share for own, share in shares.items() if own <= among) / len(among) for among in shares]
    return max([*held, sum(shares.values()) / lanes])


def _hard_fault(everyone: Sequence[StreamDemand], models: Mapping[str, ModelPlan], lanes: int) -> str:
    """The fault that `critical_proof` finds with the CRITICAL streams among them; empty: none."""
    cap_ns = batch_caps_ns(everyone, models)[StreamClass.CRITICAL]
    critical: list[StreamDemand] = []
    shared: dict[str, bool] = {}
    frames_max: dict[str, int] = {}
    for stream in everyone:
        if stream.stream_class is StreamClass.CRITICAL and stream.period_ns:
            critical.append(stream)
            # The most frames of the model that can wait at a time while none is late.
            frames_max[stream.model] = frames_max.get(stream.model, 0) - (-stream.budget_ns // stream.period_ns)
        else:
            shared[stream.model] = True
    lanes_used = [lane for stream in critical if stream.model in models for lane in models[stream.model].lanes]
    blocking_ns = 0
    # Where at most one CRITICAL frame waits at a time, only less critical frames can block it.
    for model in {**frames_max, **shared} if sum(frames_max.values()) > 1 else shared:
        plan = models.get(model)
        if plan is not None and not set(plan.lanes).isdisjoint(lanes_used):
            first_ns, *larger_ns = plan.ranks[0] if model in shared else plan.ranks[0][: frames_max[model]]
            blocking_ns = max([blocking_ns, first_ns, *(size_ns for size_ns in larger_ns if size_ns <= cap_ns)])
    return hard_schedulable(critical, models, lanes, blocking_ns)


def _counter(
    verdict: Verdict,
    candidate: StreamDemand,
    streams: Sequence[StreamDemand],
    models: Mapping[str, ModelPlan],
    lanes: int,
) -> None:
    """Fills in the counter-offers."""

    def fits(tried: StreamDemand) -> bool:
        return analyse(tried, streams, models, lanes).accepted

    if candidate.period_ns:
        verdict.counter_period_ns = _least(
            candidate.period_ns, PERIOD_FACTOR_MAX, lambda period_ns: fits(replace(candidate, period_ns=period_ns))
        )
    verdict.counter_budget_ns = _least(
        candidate.budget_ns, BUDGET_FACTOR_MAX, lambda budget_ns: fits(replace(candidate, budget_ns=budget_ns))
    )
    plan = models.get(candidate.model)
    for rank in range(candidate.variant_rank_max + 1, len(plan.ranks) if plan is not None else 0):
        if fits(replace(candidate, variant_rank_max=rank)):
            verdict.counter_rank = rank
            return
    if candidate.period_ns and not verdict.counter_period_ns and not verdict.counter_budget_ns:
        verdict.counter_both_ns = _least_both(candidate, fits)


def _least_both(candidate: StreamDemand, fits: Callable[[StreamDemand], bool]) -> tuple[int, int]:
    """A period and a budget with which the candidate fits, where neither alone helps; zeros: there are none.

    The budget is twice the least that fits with any period: with the least, only the rarest frames would.
    """
    rare = replace(candidate, period_ns=candidate.period_ns * PERIOD_FACTOR_MAX)
    least_ns = _least(
        candidate.budget_ns, BUDGET_FACTOR_MAX, lambda budget_ns: fits(replace(rare, budget_ns=budget_ns))
    )
    if not least_ns:
        return 0, 0
    roomy = replace(candidate, budget_ns=2 * least_ns)
    period_ns = _least(
        candidate.period_ns, PERIOD_FACTOR_MAX, lambda period_ns: fits(replace(roomy, period_ns=period_ns))
    )
    return (period_ns, roomy.budget_ns) if period_ns else (0, 0)


def _least(asked: int, factor_max: int, fits: Callable[[int], bool]) -> int:
    """The least value from `asked` on that fits, by bisection on a logarithmic scale; 0: none within `factor_max`
    times.
    """
    if not fits(asked * factor_max):
        return 0
    too_little, enough = asked, asked * factor_max
    for _ in range(BISECTIONS):
        middle = isqrt(too_little * enough)
        if fits(middle):
            enough = middle
        else:
            too_little = middle
    return enough
