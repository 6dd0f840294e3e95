"""Checks at load that the frames of a batch do not influence one another.

Batching rests on it, and many graphs break it: dynamic quantisation takes its scales over the whole batch, batch
normalisation that was exported in training mode its mean, a softmax along the wrong axis its sum. The frames of one
client would then change the answers of another one. Frames that differ, also in their magnitude, are run alone and side
by side at every batch size. What comes out for a frame must be the same but for the rounding of the provider's kernels,
which may sum in another order for another batch size.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from duly.accelerators import CPU
from duly.worker.batch_axes import Session
from duly.worker.dtypes import BFLOAT16, TEXT, Array, as_numbers, is_floating, of_type, text_array
from duly.worker.errors import RunError
from duly.worker.graph import made_up_shape
from duly.worker.plan import Plan

ROWS_MAX = 8
"""So many different frames are made up. A larger batch has each of them several times."""
DRAWS = 3
"""Rows count as dependent where most of so many draws say so: rounding may tip an index over once."""
OPEN_EXTENT = 32
"""The extent of a made-up frame along a dimension that is open."""
LOUDNESS = (1.0, 8.0, 0.25, 3.0, 1.0, 0.5, 16.0, 2.0)
"""Frames differ in magnitude by these factors, since a loud neighbour drowns a quiet one where scales are shared."""
EXACT, ROUNDED = 5e-3, 2e-2
"""How far a result may be from that of the frame alone, as a share of the frame's largest: in floating point on a CPU,
where sums in another order differ by 1e-6 in single and by 1e-3 in half precision; and where values are rounded more on
their way, to 8 bits or to the 10 bits of TF32, which a GPU uses for single precision."""
_FLOOR = 1e-6
"""A difference below this share of the largest result of all frames is rounding, even where a frame's own are all 0."""
_PLACE = 5e-2
"""How far one number may be off, as a share of the largest that any frame has in its place. Scores in 0..1 often stand
in one tensor with boxes in pixels, beside whose largest they are nothing."""
_PLACE_FLOOR, _PLACE_FLOOR_HALF = 1e-4, 1e-3
"""A difference below this share of a frame's largest is rounding, also in a place whose numbers are all small: in
single precision, and where some may be in half precision."""
_COUPLING = "DynamicQuantize"
"""Operators whose names begin so take the scale of a whole tensor, all frames of the batch included."""
_ROUNDING = re.compile(r".*(Quant|QLinear|QGemm|QAttention|Integer).*")


@dataclass(frozen=True, slots=True)
class Dependence:
    """Frames of a batch influence one another, or it can't be told whether they do."""

    size: int
    """The smallest batch where they do."""
    output: str
    share: float
    """How far the output is from that of the frame alone, as a share of its largest value."""
    operator: str = ""
    """The operator that is known to be the cause."""
    changing: bool = False
    """Whether the output is another one each time that the same frame is run alone."""

    def __str__(self) -> str:
        if self.changing:
            return (
                f"output '{self.output}' is another one each time that the same frame is run, as with dropout or batch "
                "normalisation that was exported in training mode; export the model in evaluation mode"
            )
        if self.operator:
            return (
                f"{self.operator} takes its scale over all frames of a batch, so that they influence one another; "
                "quantise statically (quantize_static, QDQ) for batches"
            )
        return (
            f"in a batch of {self.size}, output '{self.output}' of a frame is {self.share:.0%} away from what it gives "
            "alone: something in the graph works across the batch, such as batch normalisation that was exported "
            "in training mode or a softmax over the wrong axis; or that dimension is no batch, as batched = false says"
        )


def tolerance(providers: Iterable[str], operators: Iterable[str]) -> float:
    """How far results of the same frame may be apart on these providers and by these operators, as a share."""
    rounds = set(providers) != {CPU} or any(map(_ROUNDING.fullmatch, operators))
    return ROUNDED if rounds else EXACT


class Rows:
    """Frames that are made up for one graph, and their results."""

    def __init__(self, plan: Plan, session: Session, providers: Iterable[str], operators: Iterable[str]) -> None:
        """`providers`: those that run the graph. `operators`: the types of its nodes, as they are run."""
        self._plan = plan
        self._session = session
        self._operators = frozenset(operators)
        kinds = {*(planned.reader.dtype for planned in plan.inputs), *(output.dtype for output in plan.outputs)}
        self._within = ROUNDED if BFLOAT16 in kinds else tolerance(providers, self._operators)
        half = np.dtype(np.float16) in kinds or "Cast" in self._operators
        self._place_floor = _PLACE_FLOOR_HALF if half else _PLACE_FLOOR
        self._outputs = [output.tensor for output in plan.outputs]
        if plan.post is not None and plan.post.tensor not in self._outputs:
            self._outputs.append(plan.post.tensor)
        self._outputs += [watch.tensor for watch in plan.guards.scores]
        self._outputs += [state.output for state in plan.states]

    def dependence(self, sizes: Sequence[int]) -> Dependence | None:
        """How frames influence one another in batches of `sizes`, which rise; None: they do not, or it can't be found
        out, since the graph can't be run on made-up frames.
        """
        coupling = sorted(name for name in self._operators if name.startswith(_COUPLING))
        if coupling:
            return Dependence(sizes[-1], "", 1.0, coupling[0])
        found: list[Dependence] = []
        for seed in range(DRAWS):
            if (each := self._draw(seed, sizes)) is not None:
                found.append(each)
            if not found and seed == 0:
                return None
        return found[0] if len(found) > DRAWS // 2 else None

    def runs(self, size: int) -> bool:
        """Whether the graph runs a batch of `size`; also where it can't be found out, since no single frame runs."""
        for rows in self._made_up(np.random.default_rng(0), min(ROWS_MAX, size)):
            try:
                self._run(rows[:1])
            except RunError:
                continue  # it may be an index into something smaller
            try:
                self._side_by_side(rows, size)
            except RunError:
                return False
            return True
        return True

    def _draw(self, seed: int, sizes: Sequence[int]) -> Dependence | None:
        for rows in self._made_up(np.random.default_rng(seed), min(ROWS_MAX, sizes[-1])):
            try:
                # A batch of the same frame throughout is what the frame alone is where the graph takes no single one.
                alone = [self._run([row] * sizes[0]) for row in rows]
                if not all(np.isfinite(values).any() for values in alone[0].values() if values.size):
                    continue
                floor = {name: _FLOOR * max(map(_largest, (each[name] for each in alone))) for name in alone[0]}
                places = self._places(alone)
                if (changed := self._apart(self._run([rows[0]] * sizes[0]), 0, alone[0], floor, places)) is not None:
                    return Dependence(sizes[0], *changed, changing=True)
                for size in sizes:
                    together = self._side_by_side(rows, size)
                    for index in range(size):
                        apart = self._apart(together, index, alone[index % len(rows)], floor, places)
                        if apart is not None:
                            return Dependence(size, *apart)
                return None
            except RunError:
                continue  # it may be an index into something smaller
        return None

    def _side_by_side(self, rows: Sequence[Mapping[str, Array]], size: int) -> dict[str, Array]:
        """Runs a batch of `size` that has all of the rows in turn."""
        return self._run([rows[index % len(rows)] for index in range(size)])

    def _run(self, rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        inputs = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        for state in self._plan.states:
            inputs[state.input] = np.moveaxis(inputs[state.input], 0, state.batch_axis).copy(order="C")
        for control in self._plan.controls:
            inputs[control.input] = control.made_up(len(rows))
        ran = self._session.run(inputs | self._plan.constants, self._outputs)
        outputs = {name: as_numbers(values) for name, values in ran.items()}
        for state in self._plan.states:
            outputs[state.output] = np.moveaxis(outputs[state.output], state.batch_axis, 0)
        return outputs

    def _places(self, alone: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """The largest magnitude that any frame alone has in each place of an output, by name.

        An output is missing where its frames differ in shape, and all are where kernels round to steps of a whole
        tensor: what is off by one step is then a matter of the tensor's largest number.
        """
        if self._within > EXACT:
            return {}
        rows = {name: [np.abs(each[name][:1]) for each in alone] for name in alone[0]}
        return {
            name: np.fmax.reduce(values)[0]
            for name, values in rows.items()
            if np.issubdtype(values[0].dtype, np.floating)
            and values[0].size
            and len({magnitudes.shape for magnitudes in values}) == 1
        }

    def _apart(
        self,
        outputs: Mapping[str, Array],
        index: int,
        alone: Mapping[str, Array],
        floor: Mapping[str, float],
        places: Mapping[str, Array],
    ) -> tuple[str, float] | None:
        """The output whose row `index` is not what the frame gives alone, and by how much; None: there is none."""
        for name, values in outputs.items():
            if not values.ndim or len(values) <= index or not len(alone[name]):
                continue  # it has no rows, which is for the warm-up to say
            row, wanted = values[index], alone[name][0]
            if row.shape != wanted.shape:
                return name, 1.0
            if not np.issubdtype(row.dtype, np.floating):
                if not np.array_equal(row, wanted):
                    return name, 1.0
                continue
            largest = _largest(wanted)
            with np.errstate(invalid="ignore"):
                distances = np.abs(row.astype(np.float64) - wanted)
            if not np.allclose(row, wanted, rtol=0.0, atol=max(self._within * largest, floor[name]), equal_nan=True):
                return name, min(1.0, _largest(distances) / largest) if largest else 1.0
            if name in places:
                least = max(self._place_floor * largest, floor[name])
                if (off := distances > np.maximum(_PLACE * places[name], least)).any():
                    with np.errstate(divide="ignore"):
                        return name, min(1.0, float(np.max(distances[off] / places[name][off])))
        return None

    def _made_up(self, random: np.random.Generator, count: int) -> Iterator[list[dict[str, Array]]]:
        """Several frames, by graph tensor; then more careful ones, for graphs that do not take the first."""
        tensors = [(p.tensor, p.reader.row_shape, p.reader.dtype, p.reader.spec.example) for p in self._plan.inputs]
        for integers, extent in ((64, OPEN_EXTENT), (2, OPEN_EXTENT), (1, OPEN_EXTENT), (64, 1), (2, 1)):
            rows: list[dict[str, Array]] = []
            for index in range(count):
                row = {
                    name: _values(random, made_up_shape(shape, extent), dtype, integers, LOUDNESS[index], example)
                    for name, shape, dtype, example in tensors
                }
                for state in self._plan.states:
                    shape = [e for axis, e in enumerate(state.shape) if axis != state.batch_axis]
                    row[state.input] = _values(random, shape, state.dtype, integers, 1.0)
                rows.append(row)
            yield rows


def _values(
    random: np.random.Generator,
    shape: Sequence[int],
    dtype: "np.dtype[np.generic]",
    integers: int,
    loudness: float,
    example: str = "",
) -> Array:
    """Numbers around 0 of about that magnitude; whole numbers are from 0 to below `integers`, and those of a picture as
    bright as `loudness` makes them. Texts are of such numbers, or the `example`, where there is one, in careful frames.
    """
    if is_floating(dtype):
        return of_type(random.standard_normal(shape) * loudness, dtype)
    if example and integers <= 2:
        return np.full(shape, example, TEXT)
    if dtype == TEXT and integers > 2:
        return _sentences(random, shape, integers)
    bright = dtype == np.uint8 and len(shape) >= 2 and integers > 1
    numbers = random.integers(0, max(2, int(256 * loudness / max(LOUDNESS))) if bright else integers, shape)
    return of_type(numbers, dtype)


def _sentences(random: np.random.Generator, shape: Sequence[int], words: int) -> Array:
    """Texts of one word to four: whole numbers from 0 to below `words`."""
    counts = random.integers(1, 5, prod(shape))
    return text_array([" ".join(map(str, random.integers(0, words, count))) for count in counts], shape)


def _largest(values: Array) -> float:
    """The largest magnitude; 0 where nothing is finite."""
    return float(np.max(np.abs(values.astype(np.float64)), where=np.isfinite(values), initial=0.0))
