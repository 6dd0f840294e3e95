"""How far the outputs of two graphs lie apart."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from duly_learn.graphs.constants import Array
from duly_learn.graphs.part import Feeds, Part

_FRAMES = 8
"""How much a change of a graph counts for its outputs is found out over so many frames."""
_LEAST = 1e-12


class Probe:
    """A graph's own answers, which those of changed ones are compared with."""

    def __init__(self, model: onnx.ModelProto, frames: Sequence[Feeds]) -> None:
        """Runs the graph on the first of the frames. Raises ValueError where ONNX Runtime cannot."""
        self._frames = frames[:_FRAMES]
        self._outputs = [each.name for each in model.graph.output]
        whole = Part(model, self._outputs)
        self._answers = [whole.run(feeds) for feeds in self._frames]

    def suffers(self, changed: onnx.ModelProto, loss: float) -> float:
        """Returns how much the outputs of the changed graph suffer for each unit of what was lost in it."""
        part = Part(changed, self._outputs)
        apart = [distance(answer, part.run(feeds)) for answer, feeds in zip(self._answers, self._frames, strict=True)]
        return max(float(np.mean(apart)), _LEAST) / max(loss, _LEAST)


def distance(expected: Mapping[str, Array], got: Mapping[str, Array]) -> float:
    """The squared distance of two answers as a share of the variance of the first."""
    total = 0.0
    for name, value in expected.items():
        if value.dtype.kind == "f":
            wanted, given = np.asarray(value, np.float64), np.asarray(got[name], np.float64)
            total += float(np.mean((wanted - given) ** 2) / max(float(np.var(wanted)), 1e-12))
    return total
