"""What the warm-up measures of larger sizes, beside other load."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from duly.models.spec import TensorSpec
from duly.worker.channel import OK, Done, Run
from duly.worker.reader import Reader
from duly.worker.size_warmup import RUN_NS_MAX, measure_sizes

VECTOR = TensorSpec(name="v", datatype="FP32", shape=(-1,), bytes_max=1 << 20)
TEXT = TensorSpec(name="t", datatype="STRING", shape=(2,), bytes_max=1 << 20)


class Timed:
    """A model of which a run takes `least_ns` and a nanosecond for each byte, and run number `disturbed` longer."""

    def __init__(self, least_ns: int = 0, disturbed: int = -1) -> None:
        self.runs = 0
        self._least_ns = least_ns
        self._disturbed = disturbed

    def run(self, run: Run) -> Done:
        (_, _, ((_, length, _, _),)) = run.frames[0]
        took_ns = self._least_ns + length + (10 * RUN_NS_MAX if self.runs == self._disturbed else 0)
        self.runs += 1
        return Done(0, 0, 0, took_ns, [(OK, [])], {})

    def forget(self, streams: list[int]) -> None:
        assert streams == [0]


def measured(model: Timed, spec: TensorSpec) -> list[tuple[int, int]]:
    reader = Reader(spec, np.dtype(object if spec.is_text else np.float32))
    plan: Any = SimpleNamespace(inputs=(SimpleNamespace(reader=reader),))
    region: Any = SimpleNamespace(inputs=[memoryview(bytearray(spec.bytes_max))])
    told: Any = measure_sizes(model, plan, region, 1)  # type: ignore[arg-type]
    assert told["open"] == [0]
    return told["graph"]


@pytest.mark.parametrize("spec", [VECTOR, TEXT], ids=["numbers", "texts"])
def test_no_single_run_that_was_disturbed_stands_for_a_size(spec: TensorSpec) -> None:
    calm = Timed()
    points = measured(calm, spec)
    assert [ns for _, ns in points] == [size for size, _ in points]
    assert points[-1][0] > 1 << 18
    for disturbed in range(calm.runs):
        assert measured(Timed(disturbed=disturbed), spec) == points


def test_a_size_that_takes_long_is_run_twice() -> None:
    slow = Timed(RUN_NS_MAX)
    assert len(measured(slow, VECTOR)) == 1
    assert slow.runs == 2
