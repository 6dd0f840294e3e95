"""How much memory the runs of a model may take.

What a graph takes for a frame of open size follows from nothing that is known before it has run: outer products take
the square of their inputs. So a worker on the CPU bounds its own data once it is warm. A run for which that is not
enough fails like any other, and costs neither the machine its memory nor other models their workers.
"""

import resource
from collections.abc import Sequence
from math import prod
from pathlib import Path

from duly.worker.inputs import InputPlan

RUN_BYTES = 1 << 30
TIMES_BATCH = 16
"""Runs may take RUN_BYTES, or so many times the bytes of the largest batch as the graph gets it, whichever is more."""
DECODED_TIMES = 6
"""A picture is there about so often while it is decoded, turned upright and resized."""
_STATUS = Path("/proc/self/status")


def run_bytes(inputs: Sequence[InputPlan], batch_max: int) -> int:
    """Returns the memory that runs may take beyond what the worker has when it is warm, in bytes."""
    batch = decoded = 0
    for planned in inputs:
        reader, spec = planned.reader, planned.reader.spec
        channels = spec.shape[2] if spec.pixels_max else 1
        if reader.sized:
            row = prod(reader.row_shape) * reader.dtype.itemsize
        else:
            row = spec.pixels_max * channels * reader.dtype.itemsize or spec.bytes_max
        batch += row * batch_max
        decoded += spec.pixels_max * channels * DECODED_TIMES
    return max(RUN_BYTES, TIMES_BATCH * batch) + decoded


def limit_data(beyond_bytes: int) -> int:
    """Lets the private memory of this process grow by no more than that. Returns what it may have then, in bytes; 0
    where the system does not tell or allow it.
    """
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmData:"))
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
        limit = min([int(line.split()[1]) * 1024 + beyond_bytes, *limits])
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    except (OSError, ValueError, StopIteration):
        return 0
    return limit
