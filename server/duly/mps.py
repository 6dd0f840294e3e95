"""NVIDIA's Multi-Process Service: whether it is on, and what a worker is told of it.

Without it, processes on one GPU take turns, and none goes before another. With it their kernels run side by side, and
each process (a client) has a priority and, if wanted, a bound of the GPU's memory. Both are variables of the client's
environment that CUDA reads as it begins: CUDA_MPS_CLIENT_PRIORITY is 0 (normal) or 1 (below normal), and
CUDA_MPS_PINNED_DEVICE_MEM_LIMIT has a bound for each device that the client counts, such as 0=2048M. What else is set
for clients (CUDA_MPS_ACTIVE_THREAD_PERCENTAGE) workers get from the server's environment as it is. It has not run on a
GPU yet.
"""

from collections.abc import Mapping
from pathlib import Path

from duly.accelerators import CUDA, device_of, of_lane

_FOLDER = "CUDA_MPS_PIPE_DIRECTORY"
_FOLDER_USUAL = "/tmp/nvidia-mps"
_CONTROL = "control"
"""What the daemon has made in its folder, and removes when it ends."""
_PRIORITY = "CUDA_MPS_CLIENT_PRIORITY"
_NORMAL, _BELOW_NORMAL = "0", "1"
_MEMORY = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"


def mps_folder(environ: Mapping[str, str]) -> Path | None:
    """Returns the folder in which processes of this environment reach the daemon of MPS; None: it is not on."""
    folder = Path(environ.get(_FOLDER) or _FOLDER_USUAL)
    return folder if (folder / _CONTROL).exists() else None


def client_variables(
    environ: Mapping[str, str], lane: str, stream_class: str, memory_bytes_max: int = 0
) -> dict[str, str]:
    """Returns the variables of a worker on that lane, beside those of the server's `environ`, which win; none where the
    lane is on no GPU of CUDA, or MPS is not on. `stream_class`: that of streams of its model which state none.
    `memory_bytes_max`: what it may take of the GPU's memory; 0: what there is.
    """
    if of_lane(lane).provider != CUDA or mps_folder(environ) is None:
        return {}
    variables = {_PRIORITY: _BELOW_NORMAL if stream_class == "BEST_EFFORT" else _NORMAL}
    if memory_bytes_max:
        variables[_MEMORY] = f"{device_of(lane)}={max(memory_bytes_max >> 20, 1)}M"
    return {name: value for name, value in variables.items() if name not in environ}
