"""The phases between which the load of a soak goes to and fro: one slice each, in turn.

A server that learns from its load what its batches cost may learn the wrong thing from a change of it: one was seen to
run batches of one for good after its load had gone from single frames to many and back a dozen times, and answered a
tenth of what it had. A load that is always the same never shows that.

A turn begins with the busy phase, so that a soak of one slice has offered what it was asked to, and so that the
warm-up, which is one slice at least, has opened as many streams as there will ever be.
"""

from enum import StrEnum

IDLE_S_MAX = 5.0
"""An idle slice is as long as the others, but no longer than this: what a server does when it has nothing to do it does
soon, and the soak's time is for what it does under load."""


class Phase(StrEnum):
    BUSY = "busy"
    """The scenario as it is."""
    IDLE = "idle"
    """Those who behave send nothing and have no stream open. Those who misbehave go on."""
    SINGLE = "single"
    """One stream of the scenario's first sensor, see `duly_load.scenario.variations.alone`."""


def phase_of(index: int) -> Phase:
    """The phase of a slice; the first slice is 0."""
    return list(Phase)[index % len(Phase)]
