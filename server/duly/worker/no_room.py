"""Finds out which batch sizes still run, when one has failed for want of memory.

The memory that a batch needs may be due to its frames, where their size is open: then other frames of the same number
run, and nobody else has to wait for smaller batches. So made-up frames decide. They lie where the batch lay, which has
failed, and belong to stream 0, which no client has.
"""

from duly.worker.errors import DeviceFull, DeviceLost, RunError
from duly.worker.model import Model
from duly.worker.warmup import Samples


def size_that_runs(model: Model, samples: Samples, slot: int, size: int) -> int | None:
    """Looks for the largest size that runs after a batch of `size` frames in that slot did not. None: made-up frames
    run at that very size, so that the failure was due to the frames. 0: not even the smallest size of the warm-up runs.

    Raises DeviceLost.
    """
    if _runs(model, samples, slot, size):
        return None
    smaller = [each for each in model.batch_sizes if each < model.size_of(size)]
    return next((each for each in reversed(smaller) if _runs(model, samples, slot, each)), 0)


def _runs(model: Model, samples: Samples, slot: int, size: int) -> bool:
    """Whether there is enough memory for a batch of so many made-up frames."""
    try:
        samples.run(model, slot, size)
    except DeviceLost:
        raise
    except (DeviceFull, MemoryError):
        return False
    except RunError:
        return True  # whatever it is, it is no want of memory
    return True
