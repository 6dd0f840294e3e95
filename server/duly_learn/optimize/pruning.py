"""The step that prunes: a graph with fewer channels, whose layers were made anew over calibration frames."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import onnx

from duly_learn.optimize.examples import feeds_of
from duly_learn.optimize.prune import PRUNING_FRAMES_MAX, CannotPrune, Method, Pruned, prune
from duly_learn.optimize.step import Candidate, OptimizeSource, Refused

SHARE = 0.6
"""The share of the multiplications that is left where nothing else is said: then a graph of layers that are all alike
takes about 0.6 of the time."""
SECONDS_MAX = 1800.0
"""Pruning that takes longer is given up."""


@dataclass(frozen=True, slots=True)
class Pruning:
    """Takes channels out."""

    share: float = SHARE
    method: Method = "sensitivity"
    name: str = "pruned"

    def make(self, source: OptimizeSource, folder: Path) -> Candidate:
        """Raises Refused where the graph's channels cannot be followed, or it takes too long."""
        pruned = pruned_of(source, self.share, self.method)
        onnx.save(pruned.model, str(folder / "model.onnx"))
        return Candidate("model.onnx", said_of(pruned), notes_of(pruned))


def pruned_of(source: OptimizeSource, share: float, method: Method) -> Pruned:
    """Prunes the graph of a source. Raises Refused."""
    if not source.calibration:
        raise Refused("there is no frame over which layers could be made anew after pruning")
    try:
        return prune(
            source.load(), feeds_of(source, PRUNING_FRAMES_MAX), share, method, source.seed, until(SECONDS_MAX)
        )
    except CannotPrune as error:
        raise Refused(f"nothing can be pruned: {error}") from error
    except ValueError as error:  # ONNX Runtime cannot run a part of it
        raise Refused(f"the pruned graph does not run: {error}") from error


def until(seconds: float) -> Callable[[], None]:
    """Returns what raises Refused once so much time is over."""
    end = monotonic() + seconds

    def check() -> None:
        if monotonic() > end:
            raise Refused(f"it takes longer than {seconds:g} s; give fewer frames")

    return check


def said_of(pruned: Pruned) -> str:
    """Says what was taken out, in one sentence."""
    layers = ", ".join(f"{name} {before} → {after}" for name, (before, after) in list(pruned.channels.items())[:8])
    more = f" and {len(pruned.channels) - 8} more" if len(pruned.channels) > 8 else ""
    before, after = pruned.work
    return f"channels taken out ({layers}{more}), which leaves {after / before:.0%} of the multiplications"


def notes_of(pruned: Pruned) -> list[str]:
    """Says what the report is to tell besides."""
    notes = [f"{name} keeps all channels: {why}." for name, why in list(pruned.kept.items())[:5]]
    if pruned.fewer_samples_than_unknowns:
        named = ", ".join(pruned.fewer_samples_than_unknowns[:5])
        notes.append(
            f"The frames are too few to settle the new weights of {named} by least squares alone, so that these stay "
            "near those that the covariances of the channels give; more frames would do better."
        )
    if pruned.too_large:
        notes.append(
            f"Too large for least squares, and made anew by covariances alone: {', '.join(pruned.too_large[:5])}."
        )
    return notes
