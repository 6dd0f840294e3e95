"""`[learning]` of model.toml: whether new versions of a model are made from labelled frames while the server runs, by
what, and what a version must show before it is published. docs/learning.md explains it.

The server reads it to know whether it needs a learner; the learner (`duly_learn.learner`), which is a process of its
own, does what it says.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from duly.models.strict import Strict

Share = Annotated[float, Field(ge=0, le=1)]

WINDOW_MAX = 100_000
"""A model.toml whose trainer looks at more labelled frames than this is not loaded."""
COMMAND_WORDS_MAX = 64
"""A trainer's command of more words is not loaded."""
WORD_CHARS_MAX = 4096
"""Nor one with a longer word."""


class Drift(Strict):
    """What is watched in a model's inputs, outputs and errors, and how sure an alarm has to be."""

    detector: Literal["adwin", "page_hinkley", "kswin"] = "adwin"
    """river's detector for inputs and outputs. Errors, where labels come, are always watched by ADWIN, which says since
    when they are others."""
    false_alarms: Annotated[float, Field(gt=0, le=0.5)] = 0.002
    """The detectors' confidence (ADWIN's delta, KSWIN's alpha), shared out among the signals of the model, so that it
    holds for all of them together."""
    inputs: bool = True
    outputs: bool = True
    reference_frames: Annotated[int, Field(ge=30, le=10_000)] = 200
    """So many frames say what is usual; there is no alarm before."""


class Validation(Strict):
    """What a new version must show on labelled frames that no trainer has seen."""

    measure: Literal["balanced", "accuracy"] = "balanced"
    """The share of right answers: of each class and averaged (balanced), or of all frames."""
    held_out: Annotated[float, Field(ge=0.1, le=0.5)] = 0.25
    """The share of labelled frames that are kept back from every trainer for good."""
    held_out_min: Annotated[int, Field(ge=20, le=10_000)] = 60
    """A version is not judged, and so not published, on fewer frames of the present regime."""
    gain_min: Annotated[float, Field(ge=0, le=0.5)] = 0.01
    """By how much it must be better than the version that it is made from. It must surely be better
    besides: of all versions made from one, none that is no better is published, but with a chance of 5 %."""
    forgetting_max: Share = 0.1
    """By how much it may be worse on old frames that are still true: the upper end of what is measured, so that few
    frames do not pass by luck."""


class Trust(Strict):
    """Which labels are believed (`duly_learn.learner.trust`)."""

    base_rate_jump_max: Share = 0.3
    """Labels among which the share of a class differs by more from what it was before are not believed."""
    source_share_max: Annotated[float, Field(gt=0, le=1)] = 0.4
    """The share of the training data that one source of labels may have where there are three or more."""
    disagreement_max: Share = 0.15
    """Labels that the others' labels predict worse than others, by more than this, are not believed."""
    suspects_max: Share = 0.5
    """Where more than this share of the labels is not believed, none is, and nothing is trained."""


class Learning(Strict):
    """Continual learning of one model, under `duly serve --learn DIR`."""

    on: bool = True
    command: tuple[Annotated[str, Field(min_length=1, max_length=WORD_CHARS_MAX)], ...] = Field(
        default=(), max_length=COMMAND_WORDS_MAX
    )
    """The trainer, with its arguments, which is run with the folder of its job as its last one; it needs the server's
    setting `learn_commands`. Empty: the built-in trainer of this `kind`."""
    kind: Literal["tabular", "head"] = "tabular"
    """tabular: boosted trees are made anew from the newest labelled frames, for models whose inputs are numbers. head:
    the last Gemm or MatMul of the graph is trained further, on the features below it, and all else stays."""
    label: str = "label"
    """The name of the label in the clients' Feedback: the number of the class, one element."""
    output: str = ""
    """The output that has a score for each class, by the name that clients know; empty: the only one of floating
    point."""
    frames_min: Annotated[int, Field(ge=50, le=WINDOW_MAX)] = 400
    """A new version is made once so many labelled frames have come since errors were found to be others. So it is also
    how long wrong labels of everybody must last before anything is learnt from them."""
    every: Annotated[int, Field(ge=20, le=WINDOW_MAX)] = 400
    """And tried again after so many more."""
    window: Annotated[int, Field(ge=100, le=WINDOW_MAX)] = 4000
    """The newest labelled frames of the present regime that are trained on, at most."""
    old_frames: Annotated[int, Field(ge=0, le=WINDOW_MAX)] = 1000
    """So many labelled frames of all times are kept, drawn evenly, to train on and to measure forgetting."""
    versions_kept: Annotated[int, Field(ge=2, le=1000)] = 8
    """Of the versions that the learner made, so many are kept in the repository, and those that serve."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    train_s_max: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    """A trainer that takes longer is ended."""
    train_bytes_max: PositiveInt = 4 << 30
    """Memory that a trainer may have."""
    drift: Drift = Drift()
    validation: Validation = Validation()
    trust: Trust = Trust()

    @model_validator(mode="after")
    def _consistent(self) -> "Learning":
        if self.window < self.frames_min:
            raise ValueError(f"learning.window: should be at least frames_min, which is {self.frames_min}")
        if self.frames_min * self.validation.held_out < self.validation.held_out_min:
            raise ValueError(
                f"learning.frames_min: {self.frames_min} frames, of which {self.validation.held_out:g} are held out, "
                f"are fewer than validation.held_out_min, which is {self.validation.held_out_min}; raise it"
            )
        return self
