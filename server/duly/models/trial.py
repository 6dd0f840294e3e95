"""`[trial]` of model.toml: how a new version is tried on live frames before it becomes active. docs/trials.md explains
it.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from duly.models.strict import Strict
from duly.trials.rules import AtLimit, Rules

Share = Annotated[float, Field(gt=0, le=1)]
BLOCK_S_MIN, BLOCK_S_MAX = 0.1, 600.0
"""A model.toml with shorter or longer blocks of a canary is not loaded."""
STAGE_S_MAX = 30 * 86_400.0
"""A model.toml that lets a stage of a trial take longer, 30 days, is not loaded."""
Limit = Annotated[float, Field(gt=0, le=STAGE_S_MAX)]


class Trial(Strict):
    """How new versions of the model are tried. With the table, even an empty one, `--watch activate` begins a trial of
    a new version in place of activating it."""

    shadow_share: Share = 0.25
    """The share of the active version's results that the candidate is tried on, as far as there is spare time."""
    canary_share: Share = 0.1
    """The share of the streams that it answers in the canary, in turns with the active version."""
    canary_streams: Literal["ALL", "NEW"] = "ALL"
    """Which streams may be in the canary: all, those that are open from their next frame on, or only such as open
    during it. Open streams whose state would be lost stay out in any case. Streams go in turns where that can be: with
    NEW, or where their state would be lost, they stay with the candidate, and the risk holds for streams that are alike
    and steady load alone."""
    canary_block_s: Annotated[float, Field(ge=BLOCK_S_MIN, le=BLOCK_S_MAX)] = 1.0
    """How long the streams are with one version, in turns. What is proven hangs on the number of blocks, not on their
    length: a few frames of the canary in each are enough. Frames should not wait for longer than a quarter of it, or
    what one version leaves waiting is felt in the block of the other."""
    frames_min: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    """So many frames are compared before the canary may begin, and answered in it before it may end well."""
    agreement_min: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """The mean agreement with the active version's answers, by the measure of `[task]`, that it has to have; 0: it is
    not tested, for versions that are meant to answer otherwise."""
    on_time_worse_max: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """By how much on-time ratios may be less with the candidate than without, those of the canary's streams and those
    of all others."""
    accuracy_worse_max: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """By how much its share of right answers may be less than that of the active version, where clients send labels of
    frames during the canary that name a class."""
    labels_min: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """With fewer labels of either version they decide nothing."""
    errors_max: Annotated[int, Field(ge=0)] = 0
    """How many frames it may fail on, or give a NaN for where the active version does not."""
    risk: Annotated[float, Field(ge=1e-6, le=0.2)] = 0.05
    """The chance that it is promoted against a rule, and that it is rolled back though it keeps them all, at most
    (docs/trials.md)."""
    shadow_s_max: Limit = 3600.0
    canary_s_max: Limit = 3600.0
    at_limit: Literal["ROLL_BACK", "GO_ON"] = "ROLL_BACK"
    """What happens where a stage takes longer than that, as nothing is proven either way: GO_ON goes to the next stage,
    for which `risk` holds no more."""
    drift: Literal["IGNORE", "ROLL_BACK"] = "IGNORE"
    """What happens where drift of the model is seen during the trial."""
    rolled_back: Literal["UNLOAD", "KEEP"] = "UNLOAD"
    """Whether a candidate that did not pass is unloaded, or stays loaded for whoever names it."""
    comparisons_per_s_max: Annotated[PositiveFloat, Field(le=1000)] = 50.0
    """So many answers are compared a second at most, one at a time."""

    def held_to(self, active: "Trial") -> "Trial":
        """Returns the settings of the active version with these where they are stricter, rule by rule. So whoever makes
        a version does not say alone how it is examined.
        """
        return active.model_copy(
            update={
                "frames_min": max(self.frames_min, active.frames_min),
                "agreement_min": max(self.agreement_min, active.agreement_min),
                "on_time_worse_max": min(self.on_time_worse_max, active.on_time_worse_max),
                "accuracy_worse_max": min(self.accuracy_worse_max, active.accuracy_worse_max),
                "labels_min": min(self.labels_min, active.labels_min),
                "errors_max": min(self.errors_max, active.errors_max),
                "risk": min(self.risk, active.risk),
                "at_limit": min(self.at_limit, active.at_limit, key=AtLimit.__getitem__),
                "drift": max(self.drift, active.drift, key=("IGNORE", "ROLL_BACK").index),
            }
        )

    def rules(self) -> Rules:
        return Rules(
            agreement_min=self.agreement_min,
            on_time_worse_max=self.on_time_worse_max,
            accuracy_worse_max=self.accuracy_worse_max,
            labels_min=self.labels_min,
            errors_max=self.errors_max,
            frames_min=self.frames_min,
            risk=self.risk,
            shadow_ns_max=round(self.shadow_s_max * 1e9),
            canary_ns_max=round(self.canary_s_max * 1e9),
            canary_block_ns=round(self.canary_block_s * 1e9),
            at_limit=AtLimit[self.at_limit],
            drift_ends=self.drift == "ROLL_BACK",
        )
