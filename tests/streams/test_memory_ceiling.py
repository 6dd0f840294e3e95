"""The ceiling of memory is what the limits add up to."""

from duly.models.spec import Signature, TensorSpec
from duly.streams.memory_ceiling import PROCESS_BYTES, WorkerMemory, memory_ceiling

SPEC = TensorSpec(name="x", datatype="UINT8", shape=(640,), bytes_max=640)
SIGNATURE = Signature(inputs=(SPEC,), outputs=(SPEC,), batch_sizes=(1, 4), any_size=True, stateful=False)


def test_each_limit_is_in_it_once() -> None:
    workers = [WorkerMemory(SIGNATURE, 1 << 30), WorkerMemory(SIGNATURE, 0)]
    ceiling = memory_ceiling(1 << 29, 1 << 22, 100, workers)
    assert (ceiling.payloads, ceiling.messages) == (1 << 29, (1 << 29) + (100 << 22))
    assert memory_ceiling(1 << 29, 1 << 26, 100, workers).messages == 2 << 29  # messages that come are held to as much
    assert ceiling.results == (1 << 29) + (1 << 27)
    assert ceiling.shared == 2 * 2 * 2 * 4 * 640  # workers, slots, areas, frames
    assert (ceiling.workers, ceiling.unlimited_workers) == (1 << 30, 1)
    assert ceiling.trials == 64 << 20
    parts = ceiling.payloads + ceiling.results + ceiling.messages + ceiling.shared + ceiling.workers + ceiling.trials
    assert ceiling.total == PROCESS_BYTES + parts


def test_what_learning_may_take_is_in_it() -> None:
    without = memory_ceiling(1 << 29, 1 << 22, 100, ())
    ceiling = memory_ceiling(1 << 29, 1 << 22, 100, (), learning_bytes_max=5 << 30)
    assert (ceiling.learning, ceiling.total) == (5 << 30, without.total + (5 << 30))
