"""Whether a free lane waits for more frames.

Theory. A batch that starts at once runs with the frames that are there. A batch that is put off until it could not take
one more frame and still meet its head's deadline is as large as it can be (deferred batching: Symphony, OSDI'23
preprint, `rankmt`). Putting off pays only where other lanes can take what becomes ripe meanwhile: with one lane the
time that it idles is lost, and with as many models as lanes the batches that were put off come due together and wait
for each other. In simulation it gains 7 % capacity with 8 lanes and 2 models, 1-2 % with 4 lanes and 1 model, and
nothing with 2 lanes for each model; it costs up to 10 % with 8 models on 4 lanes, and at low load it only adds latency.
So a lane holds only

- where two lanes or more are up, and at least LANES_PER_MODEL lanes for each model that has frames waiting,
- while demand is high, on an average over dozens of frames,
- where the batch would grow: one more frame would pay, and would still be in time,
- where ALL streams of its frames want every frame: in the others the next frame may supersede instead of adding.

It is woken at deadline - planned(b + 1), when no further frame would fit.
"""

from duly.core.timing.profile import Plan

LANES_PER_MODEL = 4
DEMAND_MIN_PERCENT = 60
"""A lane holds only while demand, as `arrival_rate.lanes_needed` counts it, exceeds this share of the lanes."""


def may_hold(lanes: int, models_waiting: int, lanes_needed: float) -> bool:
    return lanes > 1 and models_waiting * LANES_PER_MODEL <= lanes and lanes_needed * 100 > lanes * DEMAND_MIN_PERCENT


def ripe_at_ns(profile: Plan, size: int, waiting: int, deadline_ns: int) -> int:
    """The time from which on a batch of `size` of the `waiting` frames gains nothing by waiting; 0: it gains nothing
    now.
    """
    if size < waiting or size >= profile.batch_max or profile.largest_efficient(size + 1) != size + 1:
        return 0
    return deadline_ns - profile.plan_ns[size + 1]
