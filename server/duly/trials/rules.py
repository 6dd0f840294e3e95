"""By what a trial is decided; `[trial]` of model.toml says it (`models/trial`)."""

from dataclasses import dataclass
from enum import IntEnum


class AtLimit(IntEnum):
    """What happens where the time of a stage is over and nothing is proven; the stricter is the smaller."""

    ROLL_BACK = 1
    GO_ON = 2
    """The next stage begins, as nothing speaks against it."""


@dataclass(frozen=True, slots=True)
class Rules:
    agreement_min: float
    """The mean agreement with the active version that the candidate has to have; 0: it is not tested."""
    on_time_worse_max: float
    """By how much on-time ratios may be less with the candidate than without, its own streams' and others'."""
    accuracy_worse_max: float
    """By how much its share of right answers may be less than that of the active version, where labels come."""
    labels_min: int
    """With fewer labels of either version they decide nothing."""
    errors_max: int
    """How many frames it may fail on that the active version would not have; one more ends the trial."""
    frames_min: int
    """So many frames are compared, and so many answered in the canary, before either stage can end well."""
    risk: float
    """The chance of a promotion against a rule, and of a roll-back for a rule that is kept, at most."""
    shadow_ns_max: int
    canary_ns_max: int
    canary_block_ns: int
    """How long the drawn streams are with one version in a canary that goes in turns."""
    at_limit: AtLimit = AtLimit.ROLL_BACK
    drift_ends: bool = False
    """Whether drift of the model's inputs or outputs ends the trial."""

    @property
    def roll_back_risk(self) -> float:
        """The risk of each of the rules that may roll back: agreement, the canary's on-time ratio, that of others, and
        accuracy.
        """
        return self.risk / 4
