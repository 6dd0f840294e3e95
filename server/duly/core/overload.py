"""What becomes of frames that the lanes cannot serve in time.

Theory. A doomed frame that runs all the same takes the lane from one that could still make it: served that way, an
overloaded server delivers next to nothing on time. So a frame is dropped the moment its latest start (deadline minus
planned execution time of a batch of one) has passed, not when its turn comes, and the client learns it while it can
still act (Clockwork, OSDI'20, drops at the same point).

The status tells the client what to do about it. EXPIRED: this frame could not be met (it came late, its budget is
small, earlier deadlines filled the lane). SHED: while it waited, lanes that could have run it were given to more
critical frames.
"""

from duly.core.types import Frame, OutcomeStatus


def drop_reason(frame: Frame, planned_ns: int, now_ns: int, preferred_ns: int) -> tuple[OutcomeStatus, str]:
    """How a doomed frame ends, and why. `preferred_ns`: when a lane last began with a more critical frame instead."""
    if now_ns > frame.arrived_ns and preferred_ns >= frame.arrived_ns:
        return OutcomeStatus.SHED, "overload: the lane was given to more critical frames"
    slack_ns = frame.deadline_ns - now_ns
    if now_ns > frame.arrived_ns:
        waited = _ms(now_ns - frame.arrived_ns)
        if planned_ns == 0:
            return OutcomeStatus.EXPIRED, f"waited {waited} while no lane served its model"
        return OutcomeStatus.EXPIRED, f"waited {waited} for a lane; less than the {_ms(planned_ns)} needed were left"
    if slack_ns <= 0:
        return OutcomeStatus.EXPIRED, f"its deadline had passed {_ms(-slack_ns)} before it came"
    return OutcomeStatus.EXPIRED, f"came with {_ms(slack_ns)} left of its budget, {_ms(planned_ns)} needed"


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / 1e6:.4g} ms"
