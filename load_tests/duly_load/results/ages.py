"""How old what a stream knows is: age of information over time.

It is now minus the moment at which the newest frame was sampled whose result, on time or late, a stream holds; until it
holds one, now minus when the stream opened. Between results it rises by a second a second, so that a run is a list of
stretches in which it rises. Kaul, Yates and Gruteser, "Real-time status: How often should one update?", 2012.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duly_load.scenario.schedule import Session

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Age:
    """Age of information over time, ms; of several streams together, over the time of all of them."""

    mean: float
    p99: float


@dataclass(frozen=True, slots=True)
class Ages:
    """Stretches of time during which the age of a stream rises steadily; arrays of the same length."""

    stream_id: Ints
    from_ns: Ints
    to_ns: Ints
    """The age at the beginning and at the end of the stretch, which is as long as the age rises."""


def ages_between(
    sessions: Sequence[Session],
    stream_id: NDArray[np.int32],
    sampled_ns: Ints,
    resolved_ns: Ints,
    start_ns: int,
    end_ns: int,
) -> Ages:
    """How age rises from result to result, in the time between start and end in which sessions are open.

    `sessions` in order of stream ids, which are 1, 2, ... The arrays have the frames that got a result, in any order:
    whose they are, when they were sampled and when the result came.
    """
    opened_ns = np.array([session.opened_ns for session in sessions], np.int64)
    closed_ns = np.array([0, *(min(session.closed_ns, end_ns) for session in sessions)], np.int64)
    # As if each session got a result at once when it opened, of a frame that was sampled then.
    whose: Ints = np.concatenate((np.arange(1, len(sessions) + 1), stream_id))
    resolved_ns = np.concatenate((opened_ns, resolved_ns))
    sampled_ns = np.concatenate((opened_ns, sampled_ns))
    order = np.lexsort((resolved_ns, whose))
    whose, resolved_ns, sampled_ns = whose[order], resolved_ns[order], sampled_ns[order]
    # Each stream's times are lifted above those of the one before, so that one running maximum serves them all.
    lift_ns = whose.astype(np.int64) * (int(resolved_ns.max(initial=0)) + 1)
    held_ns = np.maximum.accumulate(sampled_ns + lift_ns) - lift_ns
    same = np.append(whose[1:] == whose[:-1], False)
    until_ns = np.where(same, np.append(resolved_ns[1:], 0), closed_ns[whose])
    from_ns, to_ns = np.maximum(resolved_ns, start_ns), np.minimum(until_ns, closed_ns[whose])
    keep = to_ns > from_ns
    return Ages(whose[keep], (from_ns - held_ns)[keep], (to_ns - held_ns)[keep])


def age_quantiles_ns(from_ns: Ints, to_ns: Ints, parts: Floats) -> Floats:
    """The ages that are not exceeded for these parts (0 to 1) of the time that the stretches take together; exact.

    `from_ns`, `to_ns`: ages at the beginning and at the end of each stretch, as in `Ages`; at least one.
    """
    # Time spent at ages up to x grows with x at the number of stretches that hold x.
    ages_ns = np.concatenate((from_ns, to_ns))
    order = np.argsort(ages_ns, kind="stable")
    ages_ns = ages_ns[order]
    holding = np.cumsum(np.where(order < len(from_ns), 1, -1))
    spent_ns = np.append(0, np.cumsum(holding[:-1] * np.diff(ages_ns)))
    at_ns: Floats = np.interp(parts * spent_ns[-1], spent_ns, ages_ns)
    return at_ns


def age_over(from_ns: Ints, to_ns: Ints) -> Age | None:
    """Mean and percentile over the time of these stretches; exact. None where there are none."""
    if not len(from_ns):
        return None
    from_ms, to_ms = from_ns / 1e6, to_ns / 1e6
    mean = float(((to_ms - from_ms) * (to_ms + from_ms)).sum() / 2 / (to_ms - from_ms).sum())
    return Age(mean, float(age_quantiles_ns(from_ns, to_ns, np.array([0.99]))[0]) / 1e6)
