"""What is watched of a frame: a few numbers for its inputs and outputs, whatever their size.

A tensor of few numbers is watched number by number. Of a larger one, such as a picture, its mean, its deviation, its
median, and the numbers below which a tenth and nine tenths of it lie. An encoded payload says its size alone: it is not
decoded here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

SMALL_ELEMENTS_MAX = 64
"""A tensor with more elements is summarised rather than watched number by number."""
SIGNALS_MAX = 128
"""Of one model, so many numbers are watched, the inputs' first; further ones are not."""
SAMPLED_ELEMENTS_MAX = 4096
"""Of a larger tensor, so many elements, evenly spaced, make the summary."""
_DECILES = (10, 50, 90)
_OF_LARGE = ("mean", "deviation", *(f"p{each}" for each in _DECILES))


@dataclass(slots=True)
class Summary:
    """What is watched of the frames of one model. The first frame says what there is; a tensor that has another size
    later has no numbers (NaN) then.
    """

    names: list[str] = field(default_factory=list)
    """The signals, such as `input.amount`, `input.x[3]`, `output.image.mean`."""
    _small: dict[str, int] = field(default_factory=dict)
    """The tensors that are watched number by number, with how many."""
    _large: list[str] = field(default_factory=list)
    _sized: list[str] = field(default_factory=list)
    """The encoded payloads and texts, of which the size is watched."""

    def of(
        self, inputs: Mapping[str, npt.NDArray[np.generic]], outputs: Mapping[str, npt.NDArray[np.generic]]
    ) -> Vector:
        """Returns the numbers of one frame, in the order of `names`."""
        tensors = {f"input.{name}": array for name, array in inputs.items()}
        tensors |= {f"output.{name}": array for name, array in outputs.items()}
        if not self.names:
            self._begin(tensors)
        parts: list[Vector] = []
        for name, size in self._small.items():
            array = tensors.get(name)
            fits = array is not None and array.size == size and array.dtype.kind in "biuf"
            parts.append(np.asarray(array, np.float64).ravel() if fits else np.full(size, np.nan))
        for name in self._large:
            array = tensors.get(name)
            parts.append(_of_large(array) if array is not None else np.full(len(_OF_LARGE), np.nan))
        for name in self._sized:
            array = tensors.get(name)
            parts.append(np.array([float(array.size) if array is not None else np.nan]))
        return np.concatenate(parts)[: len(self.names)] if parts else np.empty(0)

    def _begin(self, tensors: Mapping[str, npt.NDArray[np.generic]]) -> None:
        large: list[str] = []
        for name, array in sorted(tensors.items()):
            if array.dtype.kind not in "biuf" or (
                array.dtype == np.uint8 and array.ndim == 1 and array.size > SMALL_ELEMENTS_MAX
            ):
                self._sized.append(name)
            elif array.size <= SMALL_ELEMENTS_MAX:
                self._small[name] = array.size
                self.names += [name] if array.size == 1 else [f"{name}[{at}]" for at in range(array.size)]
            else:
                large.append(name)
        self._large = large
        self.names += [f"{name}.{what}" for name in large for what in _OF_LARGE]
        self.names += [f"{name}.size" for name in self._sized]
        del self.names[SIGNALS_MAX:]


def _of_large(array: npt.NDArray[np.generic]) -> Vector:
    flat = array.ravel()
    step = -(-flat.size // SAMPLED_ELEMENTS_MAX) or 1
    numbers = flat[::step].astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        return np.full(len(_OF_LARGE), np.nan)
    return np.concatenate([[numbers.mean(), numbers.std()], np.percentile(numbers, _DECILES)])
