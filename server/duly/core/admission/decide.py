"""Whether a stream opens: the formula, the rollout where that is too close to call, and what to offer instead.

The formula (`formula`) answers first. Where it is too close to call, a rollout (`rollout`) decides for STANDARD
streams: CRITICAL ones need a proof, which a rollout is not, and BEST_EFFORT ones open in any case. Streams that state
no period are judged by the formula alone, which still refuses what can't be served at all or would break a promise. A
refused stream is offered only what would be accepted if it came back for it: the formula's offer is rolled out like any
other stream, and where that fails, a few larger steps are tried. A stream that only the rollout refused is offered
longer periods in the same way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from duly.core.admission.formula import admit, analyse, needs_rollout
from duly.core.admission.rollout import ON_TIME_RATIO_MIN, Rollout
from duly.core.types import ModelPlan, StreamClass, StreamDemand, Verdict

ROLLOUT_STEPS = 1000
OFFERS_TRIED_PERCENT = (100, 125, 150, 200, 400)
"""The offers that are tried, as shares of the formula's offer, or of the request where the formula accepted that."""


def judge(
    candidate: StreamDemand, streams: Sequence[StreamDemand], models: Mapping[str, ModelPlan], lanes: int
) -> Verdict:
    """The formula's verdict on `candidate` beside `streams`, or the rollout's where that decides.

    What a refusal offers is accepted if the client asks for it while nothing else has changed.
    """
    verdict = admit(candidate, streams, models, lanes)
    if candidate.stream_class is not StreamClass.STANDARD or not candidate.period_ns:
        return verdict
    offers = (verdict.counter_period_ns, verdict.counter_budget_ns, verdict.counter_rank)
    # Only the rollout can refuse a stream that the formula accepts, and a longer period gives it room.
    period_ns, budget_ns, rank = (candidate.period_ns, 0, -1) if verdict.accepted else offers
    _roll_out(verdict, candidate, streams, models)
    both_ns = verdict.counter_both_ns
    verdict.counter_period_ns, verdict.counter_budget_ns, verdict.counter_rank = 0, 0, -1
    verdict.counter_both_ns = (0, 0)
    if verdict.accepted:
        return verdict

    def fits(tried: StreamDemand) -> bool:
        answer = analyse(tried, streams, models, lanes)
        _roll_out(answer, tried, streams, models)
        return answer.accepted

    longer_ns = (period_ns * percent // 100 for percent in OFFERS_TRIED_PERCENT)
    larger_ns = (budget_ns * percent // 100 for percent in OFFERS_TRIED_PERCENT)
    ranks = range(rank, len(models[candidate.model].ranks)) if rank >= 0 else ()
    verdict.counter_period_ns = next(
        (ns for ns in longer_ns if ns > candidate.period_ns and fits(replace(candidate, period_ns=ns))), 0
    )
    verdict.counter_budget_ns = next(
        (ns for ns in larger_ns if ns > candidate.budget_ns and fits(replace(candidate, budget_ns=ns))), 0
    )
    verdict.counter_rank = next((rank for rank in ranks if fits(replace(candidate, variant_rank_max=rank))), -1)
    if both_ns[0]:
        roomy = replace(candidate, budget_ns=both_ns[1])
        rarer_ns = (both_ns[0] * percent // 100 for percent in OFFERS_TRIED_PERCENT)
        found_ns = next((ns for ns in rarer_ns if fits(replace(roomy, period_ns=ns))), 0)
        verdict.counter_both_ns = (found_ns, roomy.budget_ns) if found_ns else (0, 0)
    return verdict


def _roll_out(
    verdict: Verdict, candidate: StreamDemand, streams: Sequence[StreamDemand], models: Mapping[str, ModelPlan]
) -> None:
    """Lets a rollout overrule the formula's `verdict` where the formula is too close to call."""
    if not needs_rollout(verdict):
        return
    rollout = Rollout([*streams, candidate], models)
    while not rollout.advance(ROLLOUT_STEPS):
        pass
    on_time, own = rollout.on_time_ratio(candidate.stream_class), rollout.own_ratio(candidate.stream_id)
    verdict.accepted = min(on_time, own) >= ON_TIME_RATIO_MIN
    verdict.reason += f"; run ahead with all open streams, {on_time:.1%} of frames are on time and {own:.1%} of its own"
    verdict.predicted_latency_ns = rollout.predicted_latency_ns(candidate.stream_id)
