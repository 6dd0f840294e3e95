"""What steps that fit a graph need of calibration frames: what the graph reads for each, and what it gives."""

from collections.abc import Iterator

from duly_learn.graphs.constants import Array
from duly_learn.graphs.part import Feeds, Part
from duly_learn.optimize.step import OptimizeSource

Answers = dict[str, Array]


def examples_of(source: OptimizeSource, limit: int | None = None) -> Iterator[tuple[Feeds, Answers]]:
    """Gives, for one calibration frame after another, what the graph reads and all of its outputs. Where only `limit`
    frames are wanted, they are spread evenly over all.

    Raises NotRunning and FrameRefused.
    """
    model = source.load()
    outputs = [each.name for each in model.graph.output]
    count = len(source.calibration)
    wanted = _spread(count, limit)
    rest: Part | None = None
    # Of a model that keeps state all frames of a stream have to run, whichever are wanted.
    for index, sight in enumerate(source.sights(None if source.signature.stateful else count)):
        if index not in wanted:
            continue
        if all(name in sight.outputs for name in outputs):
            yield sight.inputs, {name: sight.outputs[name] for name in outputs}
            continue
        if rest is None:
            rest = Part(model, outputs)
        yield sight.inputs, rest.run(sight.inputs)


def feeds_of(source: OptimizeSource, limit: int) -> list[Feeds]:
    """Returns what the graph reads for `limit` calibration frames, spread evenly over all."""
    return [feeds for feeds, _ in examples_of(source, limit)]


def _spread(count: int, limit: int | None) -> set[int]:
    if limit is None or limit >= count:
        return set(range(count))
    return {count * nth // limit for nth in range(limit)}
