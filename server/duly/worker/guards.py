"""The guards of a model at work: which there are, and what they find on the frames of a batch.

`plan_guards` fits model.toml to the graph. `GuardWatch` judges what is seen of each input (`worker/look`), and the
scores that the graph gives. A guard that remembers something of a stream does so for as many streams as a worker may
have, and forgets it with the stream.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from duly.models.guards import (
    Blank,
    Distribution,
    Finite,
    Frozen,
    Guard,
    InputGuard,
    Range,
    Saturated,
    name_of,
    number,
    score_outputs,
)
from duly.models.spec import ModelConfig, TensorSpec
from duly.models.wording import first_few
from duly.worker.dtypes import DTYPES, Array, as_numbers, is_floating
from duly.worker.errors import LoadError
from duly.worker.graph import Graph, extents, is_fixed
from duly.worker.look import Look, Looker
from duly.worker.states import STREAMS_MAX
from duly.worker.ways_out import NAMES_MAX, no_such

SCORES_MAX = 64
"""A model whose detector gives more numbers for a frame is not loaded."""
BLANK_SPREAD_UINT8 = 2.0
"""Of 255: the noise of a sensor in the dark is less."""
OWN_STREAM = 0
"""The stream of the worker's own frames, which no client has. Nothing is found on them."""


@dataclass(frozen=True, slots=True)
class InputWatch:
    """The guards of one input."""

    name: str
    looker: Looker
    guards: tuple[tuple[int, InputGuard], ...]
    """Each with its place among the model's guards."""
    spread_max: float
    """That of BLANK guards that state none."""


@dataclass(frozen=True, slots=True)
class ScoreWatch:
    """A graph output with the score of a detector."""

    index: int
    """The place of its guard among the model's."""
    guard: Distribution
    tensor: str
    dtype: np.dtype[np.generic]
    row_shape: tuple[int, ...]
    bindable: bool
    """Whether the graph may write the scores into an array of that shape, as it declares it."""


@dataclass(frozen=True, slots=True)
class GuardPlan:
    names: tuple[str, ...] = ()
    inputs: tuple[InputWatch | None, ...] = ()
    """One for each input of the model; empty where no input has guards."""
    scores: tuple[ScoreWatch, ...] = ()

    @property
    def remembers(self) -> bool:
        """Whether something is kept of each stream."""
        return any(isinstance(guard, Frozen) for watch in self.inputs if watch is not None for _, guard in watch.guards)


NO_GUARDS = GuardPlan()


def plan_guards(graph: Graph, config: ModelConfig, inputs: Sequence[TensorSpec]) -> GuardPlan:
    """Fits the guards of model.toml to the graph and to what clients send for its inputs.

    Raises:
        LoadError: a guard looks at what is not there, or cannot look at it.
    """
    if not config.guards:
        return NO_GUARDS
    of_inputs: dict[int, list[tuple[int, InputGuard]]] = {}
    scores = []
    for index, guard in enumerate(config.guards):
        if isinstance(guard, Distribution):
            scores.append(_score(graph, config, guard, index))
        else:
            of_inputs.setdefault(_input(inputs, guard, f"guard[{index}]"), []).append((index, guard))
    watches = tuple(input_watch(spec, of_inputs.get(position, ())) for position, spec in enumerate(inputs))
    return GuardPlan(tuple(map(name_of, config.guards)), watches if any(watches) else (), tuple(scores))


def input_watch(spec: TensorSpec, guards: Sequence[tuple[int, InputGuard]]) -> InputWatch | None:
    """Returns what looks at an input for its guards; None: there are none. Raises LoadError."""
    if not guards:
        return None
    low = high = None
    kinds: dict[str, str] = {}
    for index, guard in guards:
        _check(spec, guard, f"guard[{index}]")
        if guard.kind in kinds:
            raise LoadError(
                f"guard[{index}]: {kinds[guard.kind]} is a {guard.kind} guard of input '{spec.name}' already; keep one"
            )
        kinds[guard.kind] = f"guard[{index}]"
        if isinstance(guard, Saturated):
            low, high = _ends(spec, guard, f"guard[{index}]")
    looker = Looker(
        extremes="RANGE" in kinds,
        spread="BLANK" in kinds,
        low=low,
        high=high,
        digest="FROZEN" in kinds,
        finite="FINITE" in kinds,
    )
    return InputWatch(spec.name, looker, tuple(guards), BLANK_SPREAD_UINT8 if spec.datatype == "UINT8" else 0.0)


def _input(inputs: Sequence[TensorSpec], guard: InputGuard, place: str) -> int:
    """The position of the guard's input. Raises LoadError."""
    names = [spec.name for spec in inputs]
    if guard.input in names:
        return names.index(guard.input)
    there = first_few(names, NAMES_MAX)
    if guard.input:
        raise LoadError(f"{place}.input: the model has no input '{guard.input}'; it has: {there}")
    if len(inputs) > 1:
        raise LoadError(f"{place}.input: the model has several inputs, {there}; say which one it looks at")
    return 0


def _check(spec: TensorSpec, guard: InputGuard, place: str) -> None:
    """Raises LoadError where the guard can find nothing on what clients send for that input."""
    if spec.is_text and not isinstance(guard, Frozen):
        raise LoadError(f"{place}: input '{spec.name}' is text, of which only FROZEN can tell anything")
    if isinstance(guard, Finite):
        if not is_floating(DTYPES[spec.datatype]):
            raise LoadError(f"{place}: input '{spec.name}' is {spec.datatype}, which is always finite; leave it out")
        if spec.finite:
            raise LoadError(
                f"{place}: a frame with NaN or infinity is INVALID anyway; say finite = false for input '{spec.name}' "
                "to have it run, and flagged"
            )


def _ends(spec: TensorSpec, guard: Saturated, place: str) -> tuple[float | None, float | None]:
    """The ends of what a sensor can say, between which elements are not saturated. Raises LoadError."""
    dtype = DTYPES[spec.datatype]
    if "PCM_S16LE" in spec.encodings:
        ends: tuple[float | None, float | None] = -1.0, 32767 / 32768
    elif not is_floating(dtype) and dtype != np.bool_:
        ends = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    elif guard.low is None and guard.high is None:
        raise LoadError(f"{place}: input '{spec.name}' is {spec.datatype}, which has no ends; state low, high or both")
    else:
        return guard.low, guard.high
    return guard.low if guard.low is not None else ends[0], guard.high if guard.high is not None else ends[1]


def _score(graph: Graph, config: ModelConfig, guard: Distribution, index: int) -> ScoreWatch:
    place = f"guard[{index}].output"
    if guard.output not in graph.outputs:
        raise LoadError(
            f"{place}: {no_such(guard.output, 'output', list(graph.outputs), 'output')}; "
            "a detector is fitted into the graph by duly models optimize"
        )
    if guard.output in score_outputs(config.guards[:index]):
        raise LoadError(f"{place}: '{guard.output}' is the score of another guard already; keep one")
    used = {output.tensor or output.name: f"output '{output.name}'" for output in config.outputs}
    used |= {state.output: "a state" for state in config.states}
    if config.postprocess is not None:
        used[config.postprocess.tensor] = "what postprocess takes"
    if guard.output in used:
        raise LoadError(f"{place}: '{guard.output}' is {used[guard.output]}, and a detector's score is nothing else")
    tensor = graph.outputs[guard.output]
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None or not is_floating(dtype):
        raise LoadError(f"{place}: '{guard.output}' is {tensor.datatype}; a score is floating point")
    shape = extents(tensor.shape)[1:]
    if not tensor.shape or not is_fixed(shape) or not 1 <= prod(shape) <= SCORES_MAX:
        raise LoadError(
            f"{place}: '{guard.output}' has shape {list(tensor.shape)}; a score is one number for each frame, or at "
            f"most {SCORES_MAX}, with the batch first"
        )
    return ScoreWatch(index, guard, guard.output, dtype, shape, tensor.as_declared)


class GuardWatch:
    """Judges the frames of a model, batch by batch, and remembers what guards need of each stream."""

    def __init__(self, plan: GuardPlan, streams_max: int = STREAMS_MAX) -> None:
        self._plan = plan
        self._streams_max = streams_max
        self._newest: dict[int, dict[int, tuple[int, int]]] = {}
        """For each stream and input, the digest of its newest frame, and how often it has repeated the ones before. The
        stream that was seen last is the last one."""
        self.found: dict[int, int] = {}
        """What was found on frames of this batch, by their index: a bit for each guard."""
        self.refused: dict[int, str] = {}
        """Why frames of this batch are INVALID, by their index."""

    def __len__(self) -> int:
        return len(self._newest)

    def begin(self) -> None:
        """Forgets what was found on the batch before."""
        self.found = {}
        self.refused = {}

    def forget(self, stream_id: int) -> None:
        """Forgets what is remembered of the stream."""
        self._newest.pop(stream_id, None)

    def at(
        self, index: int, stream_id: int, position: int, payload: memoryview | None
    ) -> Callable[[Array], None] | None:
        """Returns what is to be called with the decoded value of an input, or None where nothing looks at it. `payload`
        as `Looker.look` takes it.
        """
        watch = self._plan.inputs[position] if self._plan.inputs else None
        if watch is None or stream_id == OWN_STREAM:
            return None
        return partial(self._look, watch, index, stream_id, position, payload)

    def _look(
        self,
        watch: InputWatch,
        index: int,
        stream_id: int,
        position: int,
        payload: memoryview | None,
        value: Array,
    ) -> None:
        self._judge(watch, index, stream_id, position, watch.looker.look(value, payload))

    def seen(self, index: int, stream_id: int, position: int, look: Look) -> None:
        """Judges an input that was looked at elsewhere."""
        watch = self._plan.inputs[position] if self._plan.inputs else None
        if watch is not None and stream_id != OWN_STREAM:
            self._judge(watch, index, stream_id, position, look)

    def _judge(self, watch: InputWatch, index: int, stream_id: int, position: int, look: Look) -> None:
        for place, guard in watch.guards:
            if isinstance(guard, Frozen):
                found = self._frozen(guard, stream_id, position, look.digest)
            else:
                found = _found(watch, guard, look)
            if found:
                self._note(index, place, guard, f"input '{watch.name}': {found}")

    def scores(self, outputs: Mapping[str, Array], indices: Sequence[int], stream_ids: Sequence[int]) -> None:
        """Judges frames by the scores that the graph gave: row r is that of the frame with index `indices[r]`."""
        for watch in self._plan.scores:
            rows = as_numbers(outputs[watch.tensor])[: len(indices)]
            largest = rows.reshape(len(rows), -1).max(axis=1).tolist()
            for index, stream_id, score in zip(indices, stream_ids, largest, strict=True):
                if not score <= watch.guard.max and stream_id != OWN_STREAM:  # NaN is no score that passes
                    found = (
                        f"the frame is not like those that the model was fitted to: its score is {number(score)}, at "
                        f"most {number(watch.guard.max)} is allowed"
                    )
                    self._note(index, watch.index, watch.guard, found)

    def _note(self, index: int, place: int, guard: Guard, found: str) -> None:
        self.found[index] = self.found.get(index, 0) | 1 << place
        if guard.action == "INVALID":
            self.refused.setdefault(index, f"{found} (guard '{name_of(guard)}' in model.toml)")

    def _frozen(self, guard: Frozen, stream_id: int, position: int, digest: int) -> str:
        inputs = self._newest.pop(stream_id, None)
        if inputs is None:
            inputs = {}
            while len(self._newest) >= self._streams_max:  # it starts anew where it goes on
                del self._newest[next(iter(self._newest))]
        self._newest[stream_id] = inputs
        before, repeats = inputs.get(position, (None, 0))
        repeats = repeats + 1 if digest == before else 0
        inputs[position] = digest, repeats
        if repeats <= guard.repeats_max:
            return ""
        return (
            f"the frame is frozen: it repeats the ones before it of its stream {repeats} times in a row, at most "
            f"{guard.repeats_max} is allowed"
        )


def _found(watch: InputWatch, guard: InputGuard, look: Look) -> str:
    """What a guard finds, in words; empty: nothing."""
    match guard:
        case Range():
            if guard.min is not None and not look.least >= guard.min:
                return f"the least element is {number(look.least)}, at least {number(guard.min)} is allowed"
            if guard.max is not None and not look.largest <= guard.max:
                return f"the largest element is {number(look.largest)}, at most {number(guard.max)} is allowed"
        case Finite():
            if not look.finite:
                return "an element is NaN or infinite"
        case Blank():
            spread_max = watch.spread_max if guard.spread_max is None else guard.spread_max
            if look.spread <= spread_max:
                return (
                    f"the frame is blank: its elements have a standard deviation of {number(look.spread)}, more than "
                    f"{number(spread_max)} is allowed"
                )
        case Saturated():
            share, end = max((look.low_share, "lower"), (look.high_share, "upper"))
            if share > guard.share_max:
                return (
                    f"the frame is saturated: {share:.1%} of its elements lie at the {end} end of what the sensor can "
                    f"say, at most {guard.share_max:.1%} is allowed"
                )
        case Frozen():
            pass
    return ""
