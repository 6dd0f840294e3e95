"""NVIDIA's perf_analyzer, as users of Triton measure with it: `$PERF_ANALYZER`, else what PATH has of the name.

It stops at the first error that a server answers.
"""

import csv
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.peers.environments import PEERS

SONAME = b"libcudart.so.12\0"
STEADY = ("--stability-percentage", "999", "--max-trials", "10")
"""What it measures is taken as it is: it would else go on until three windows are alike."""
ENDED_S = 300


class PerfAnalyzerError(Exception):
    """It ended with an error: says which."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A line of its results."""

    asked: float
    """The concurrency, or the rate of requests per second."""
    inferences_per_s: float
    p50_us: float
    p99_us: float


def tool() -> str:
    """Its command; empty: it is not installed."""
    return os.environ.get("PERF_ANALYZER") or shutil.which("perf_analyzer") or ""


def cuda_runtime() -> Path | None:
    """What perf_analyzer opens for any shared memory, the system's too; None: it is not installed."""
    return next((PEERS / "cudart").glob("lib/*/site-packages/nvidia/cuda_runtime/lib/libcudart.so.12"), None)


def measure(
    address: str, model: str, *options: str, shared_memory: bool = False, ended_s: float = ENDED_S
) -> list[Measured]:
    """Puts `model` under load over gRPC. `shared_memory`: inputs and outputs go through the system's, for which
    `options` have to state --output-shared-memory-size. Raises PerfAnalyzerError, also where it has not ended after
    `ended_s`, as where its server has died.
    """
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        command = [tool(), "-i", "grpc", "-u", address, "-m", model, "-f", str(table), *options]
        environ = os.environ | {"no_proxy": "127.0.0.1,localhost"}
        if shared_memory:
            command += ["--shared-memory", "system"]
            environ["LD_PRELOAD"] = str(_preloaded(Path(folder)))
        # It keeps what it makes in the folder where it runs.
        try:
            done = subprocess.run(
                command, cwd=folder, env=environ, capture_output=True, text=True, timeout=ended_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise PerfAnalyzerError(f"{' '.join(command[1:])} has not ended after {ended_s:g} s") from None
        if done.returncode != 0 or not table.exists():
            said = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
            raise PerfAnalyzerError(f"{' '.join(command[1:])} ended with {done.returncode}:\n{said}")
        return _read(table)


def _preloaded(folder: Path) -> Path:
    """The library by the name under which perf_analyzer asks for it. It is found so wherever the loader looks."""
    found = cuda_runtime()
    if found is None:
        raise PerfAnalyzerError("shared memory needs libcudart, of nvidia-cuda-runtime-cu12")
    name = b"libcudart.so"
    library = folder / name.decode()
    library.write_bytes(found.read_bytes().replace(SONAME, name.ljust(len(SONAME), b"\0")))
    return library


def _read(table: Path) -> list[Measured]:
    """The lines of the table, whose first column is what was asked for."""
    with table.open(encoding="utf-8", newline="") as file:
        rows: Sequence[dict[str, str]] = list(csv.DictReader(file))
    names = ("Inferences/Second", "p50 latency", "p99 latency")
    return [Measured(float(next(iter(row.values()))), *(float(row[name]) for name in names)) for row in rows]
