"""The `tritonserver` binary out of the wheel of nvidia-pytriton, with its Python backend, run on any model repository.

It is an environment of its own, which `duly-load peers install triton` makes. The wheel has no other backend, and
registries of packages have none either.
"""

import secrets
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from duly_load.targets.environment import Environment
from duly_load.targets.inside import INSIDE
from duly_load.targets.peer import PeerError
from duly_load.targets.server_process import ServerProcess, ask, clean_environ, free_ports, models_ready

STUB = "triton_python_backend_stub"
SHARED_MEMORY = Path("/dev/shm")
ENVIRONMENT = Environment("triton", ("nvidia-pytriton==0.7.0", "onnxruntime==1.31.1", "numpy==1.26.4"))


@dataclass(frozen=True, slots=True)
class RunningTriton:
    """One that runs and has its models ready."""

    process: ServerProcess
    grpc: str
    """HOST:PORT of its gRPC front end."""
    http_port: int


@contextmanager
def running_triton(
    name: str, repository: Path, folder: Path, models: Sequence[str], options: Sequence[str] = ()
) -> Iterator[RunningTriton]:
    """Serves `repository` on loopback until the block is left, with `models` ready. Each model's own `model.py` finds
    what is in `duly_load.targets.inside` by the variable PEER_PATH. `folder` takes backend and log, and `options` are
    further ones of tritonserver. Raises PeerError.
    """
    if missing := ENVIRONMENT.missing():
        raise PeerError(f"{name}: {missing}")
    _write_backend(folder / "backends" / "python")
    shared = f"duly_triton_{secrets.token_hex(8)}_"
    http, port = free_ports(2)
    command = [str(ENVIRONMENT.packages / "pytriton" / "tritonserver" / "bin" / "tritonserver")]
    command += [f"--model-repository={repository}", f"--backend-directory={folder / 'backends'}"]
    command += ["--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={port}"]
    command += ["--allow-metrics=false", "--log-info=false", *options]
    command += [f"--backend-config=python,shm-region-prefix-name={shared}"]
    ready: Callable[[], bool] = lambda: ask(http, "v2/health/live") is not None and models_ready(http, models)  # noqa: E731
    try:
        with ServerProcess(name, command, folder, _environ()) as process:
            process.wait_until(ready)
            yield RunningTriton(process, f"127.0.0.1:{port}", http)
    finally:
        for left in SHARED_MEMORY.glob(f"{shared}*"):  # by a backend that was killed
            left.unlink(missing_ok=True)


def _write_backend(folder: Path) -> None:
    """Triton looks for the stub of this Python version beside the backend, the wheel keeps it elsewhere."""
    triton = ENVIRONMENT.packages / "pytriton" / "tritonserver"
    stub = triton / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}" / STUB
    if not stub.exists():
        has = ", ".join(sorted(path.name for path in stub.parents[1].iterdir()))
        raise PeerError(
            f"triton has no backend for Python {sys.version_info.major}.{sys.version_info.minor}, but {has}"
        )
    folder.mkdir(parents=True)
    for path in (*(triton / "backends" / "python").iterdir(), stub):
        if path.is_file():
            (folder / path.name).symlink_to(path)


def _environ() -> dict[str, str]:
    """The environment for the binary and the Python that is embedded in the backend."""
    libraries = (ENVIRONMENT.packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    return clean_environ("DULY_", "TRITON", "PYTHON") | {
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PYTHONHOME": sys.base_prefix,
        "PEER_PATH": f"{ENVIRONMENT.packages}:{INSIDE}",
    }
