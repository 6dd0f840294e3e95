"""What a step of `duly models optimize` gets and gives. A step makes one faster graph of a version's own, or says why
it cannot.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import onnx

from duly.agreement.measures import Measure, Outputs
from duly.models.repository import ModelVersion
from duly.models.spec import Signature
from duly_learn.errors import LearnError
from duly_learn.frames.frame import LearnFrame
from duly_learn.running.seen import GraphView, Sight


class Refused(LearnError):
    """The graph cannot be treated so. The message says why, and what could be done."""


@dataclass(frozen=True, slots=True)
class OptimizeSource:
    """What a step makes a faster graph of."""

    version: ModelVersion
    """The version, with the variant that is the most accurate alone."""
    graph: Path
    """Its graph; external data lies beside it. No step writes to it."""
    signature: Signature
    """What its worker says that frames hold and outcomes give."""
    calibration: Sequence[LearnFrame]
    """Frames to calibrate, train or measure sensitivity with. None of them judges the result."""
    answers: Sequence[Outputs]
    """What the version gave for each of them."""
    measure: Measure
    """How alike two answers are."""
    tolerance: float
    """How much of the agreement may be lost."""
    seed: int
    threads: int

    def load(self) -> onnx.ModelProto:
        """Returns the graph, with external data in it; a fresh copy at each call."""
        return onnx.load(str(self.graph))

    def sights(self, limit: int | None = None) -> Iterator[Sight]:
        """Gives what the graph is given for calibration frames, after preprocessing, and what it gives for them, one
        frame at a time in a batch of one. Raises NotRunning and FrameRefused.
        """
        yield from GraphView(self.version, threads=self.threads).of(self.calibration[:limit])


@dataclass(frozen=True, slots=True)
class Candidate:
    """A graph that a step has made, not judged yet."""

    file: str
    """Its name in the folder that the step was given; external data lies beside it, under names of its own."""
    said: str
    """What was done to it, in one plain sentence for the report."""
    notes: Sequence[str] = ()
    """What else the report is to tell."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Settings of model.toml that the version needs for it, by their key, in place of the original's. A candidate that
    has any takes other inputs or gives other outputs than the original's graph, and all variants of a version have the
    same settings: so it is written as a version of its own, of one variant."""


class Step(Protocol):
    """One way to a faster graph."""

    @property
    def name(self) -> str:
        """Its name in --steps, and that of the variant."""

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        """Writes a graph into `folder`, which is empty and its own. Raises Refused."""
