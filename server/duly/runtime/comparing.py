"""Compares answers beside the event loop, one at a time for all trials together: a comparison may take milliseconds,
and frames must not wait for it. How many wait for the thread is bounded, and whoever comes then is told to let it be.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from duly.agreement.measures import Measure
from duly.models.spec import TensorSpec
from duly.runtime.outcome import Output
from duly.worker.dtypes import DTYPES, as_numbers, text_array
from duly.worker.text import read_texts

_log = structlog.get_logger("duly.trials")

WAITING_MAX = 8
"""So many comparisons wait or are under way at once, of all trials."""


class Comparing:
    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "agreement")
        self._under_way: set[asyncio.Future[float | str]] = set()

    def compare(
        self,
        measure: Measure,
        specs: Sequence[TensorSpec],
        given: Sequence[Output],
        got: Sequence[Output],
        done: Callable[[float | str], None],
    ) -> bool:
        """Compares what a frame got with what it was given, and calls `done` on the event loop with the agreement, or
        with the reason why the second fails. Returns False, and does nothing, where too many wait already.
        """
        if len(self._under_way) >= WAITING_MAX:
            return False
        work = partial(_agreement, measure, specs, given, got)
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        self._under_way.add(future)
        future.add_done_callback(partial(self._ended, done))
        return True

    def _ended(self, done: Callable[[float | str], None], future: "asyncio.Future[float | str]") -> None:
        self._under_way.discard(future)
        if not future.cancelled():
            done(future.result())

    async def finished(self) -> None:
        """Returns when nothing is under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self.finished()


def _agreement(
    measure: Measure, specs: Sequence[TensorSpec], given: Sequence[Output], got: Sequence[Output]
) -> float | str:
    try:
        expected, answered = (_arrays(each, specs) for each in (given, got))
        agreement = measure.of(expected, answered)
    except Exception as error:  # whatever it is, the trial must hear of it
        _log.warning("an answer cannot be compared", reason=f"{type(error).__name__}: {error}")
        return f"an answer of it cannot be compared: {type(error).__name__}"
    for name, values in answered.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all() and np.isfinite(expected[name]).all():
            return f"output {name!r} has a NaN or an infinity where that of the active version has none"
    return agreement


def _arrays(outputs: Sequence[Output], specs: Sequence[TensorSpec]) -> Mapping[str, npt.NDArray[Any]]:
    """The outputs of one frame as arrays by their names. Raises ValueError or TextError where the bytes are none."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for index, shape, data in outputs:
        spec = specs[index]
        if spec.is_text:
            arrays[spec.name] = text_array(read_texts(data, prod(shape)), shape)
        else:
            arrays[spec.name] = as_numbers(np.frombuffer(data, DTYPES[spec.datatype]).reshape(shape))
    return arrays
