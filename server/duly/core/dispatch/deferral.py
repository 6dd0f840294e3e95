"""Whether a free lane waits for more frames.

Theory. A batch that starts at once runs with the frames that are there; one that is put off until it could not take
one more frame and still meet its head's deadline is as large as it can be (deferred batching: Symphony, OSDI'23
preprint, `rankmt`). Putting off only ever pays where other lanes can take what becomes ripe meanwhile: with one lane
the time that it idles is lost, and with as many models as lanes the batches that were put off come due together and
wait for each other. In simulation it gains 7 % capacity with 8 lanes and 2 models, 1-2 % with 4 lanes and 1 model,
nothing with 2 lanes a model, and costs up to 10 % with 8 models on 4 lanes; at low load it only adds latency. So a
lane holds only

- with two lanes or more, and at least LANES_PER_MODEL lanes for each model that has frames waiting,
- while demand is high, on an average over dozens of frames,
- a batch that would grow: one more frame would pay, and would still be in time,
- of frames of ALL streams: those of the others are to be fresh, and the next may not add to the batch but supersede.

It is woken at deadline - planned(b + 1), when no further frame would fit.
"""

from duly.core.timing.profile import Plan

LANES_PER_MODEL = 4
DEMAND_MIN_PERCENT = 60
"""Of the lanes, as `arrival_rate.lanes_needed` counts."""


def may_hold(lanes: int, models_waiting: int, lanes_needed: float) -> bool:
    return lanes > 1 and models_waiting * LANES_PER_MODEL <= lanes and lanes_needed * 100 > lanes * DEMAND_MIN_PERCENT


def ripe_ns(profile: Plan, size: int, waiting: int, deadline_ns: int) -> int:
    """From when on a batch of `size` of the `waiting` frames has nothing to gain by waiting; 0: it has not now."""
    if size < waiting or size >= profile.batch_max or profile.efficient[size + 1] != size + 1:
        return 0
    return deadline_ns - profile.plan_ns[size + 1]
