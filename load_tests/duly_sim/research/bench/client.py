"""The load client of `load_tests/cpp`: built where needed, run once for each measurement.

It is written in C++ because a client in Python is slower than the server under measurement.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[3] / "cpp"
OVERHEAD_S = 90.0
"""The time that a run may take beyond its sending: opening, missing answers, cancelling."""
FRAMES_TIMEOUT_S = 900.0
BUILD_TIMEOUT_S = 900.0

_PACKAGES = {
    "g++": "g++",
    "make": "make",
    "pkg-config": "pkg-config",
    "protoc": "protobuf-compiler",
    "grpc_cpp_plugin": "protobuf-compiler-grpc",
}
"""Commands that the build needs and the Debian packages that bring them."""
_LIBRARIES = {"grpc++": "libgrpc++-dev", "protobuf": "libprotobuf-dev"}


class ClientError(Exception):
    """The load client can't be built, or a run of it failed: says why."""


@dataclass(frozen=True, slots=True)
class Load:
    """One run. Names are those of the client's options; see `duly_load_client --help`."""

    model: str
    frame_bytes: int
    streams: int = 1
    window: int = 1
    message_frames: int = 1
    seconds: float = 5.0
    warmup_seconds: float = 1.0
    frames: int = 0
    """Closed loop: stop after this many frames instead of after `seconds`; 0: off."""
    rate_hz: float = 0.0
    """The rate of each stream; 0: closed loop."""
    budget_ms: float = 10_000.0

    def arguments(self, target: str) -> list[str]:
        """The client's command line without its name. Budgets count from the intended send: one host, one clock."""
        words = ["--target", target, "--model", self.model, "--frame-bytes", str(self.frame_bytes)]
        words += ["--streams", str(self.streams), "--budget-ms", str(self.budget_ms), "--backlog", "ALL"]
        if self.rate_hz > 0:
            words += ["--mode", "open", "--rate", str(self.rate_hz)]
        else:
            words += ["--mode", "closed", "--window", str(self.window), "--message-frames", str(self.message_frames)]
        if self.frames > 0:
            words += ["--frames", str(self.frames)]
        else:
            words += ["--seconds", str(self.seconds), "--warmup-seconds", str(self.warmup_seconds)]
        return [*words, "--same-host", "--json"]


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What became of the measured frames; the client's JSON, field by field."""

    sent: int
    answered: int
    unanswered: int
    seconds: float
    frames_per_s: float
    """Answered frames per second, whatever the outcome."""
    on_time_per_s: float
    """Frames per second that were answered ON_TIME."""
    outcomes: dict[str, int]
    """The number of frames by outcome status."""
    latency_ms: dict[str, float]
    """p50, p90, p99 and p99.9 of the time from the intended send to a result."""
    lag_p99_ms: float
    """The client's own lag in open loop."""


def missing_packages() -> list[str]:
    """Debian packages without which the client can't be built here."""
    missing = [package for command, package in _PACKAGES.items() if shutil.which(command) is None]
    for library, package in _LIBRARIES.items():
        found = shutil.which("pkg-config") and subprocess.run(["pkg-config", "--exists", library], check=False)
        if not found or found.returncode != 0:
            missing.append(package)
    return missing


def build() -> "LoadClient":
    """Compiles what changed. Raises ClientError with the packages to install or the compiler's last words."""
    if not SOURCES.is_dir():
        raise ClientError(f"{SOURCES}: the load client's sources are not there; the benchmark needs a checkout of duly")
    if missing := missing_packages():
        raise ClientError(
            f"{SOURCES}: the load client can't be built without {', '.join(missing)}; "
            f"on Debian: apt-get install {' '.join(missing)}"
        )
    make = subprocess.run(
        ["make", "-C", str(SOURCES), "--silent"],
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
        start_new_session=True,
    )
    if make.returncode != 0:
        raise ClientError(f"{SOURCES}: make failed:\n{make.stderr[-4000:]}")
    return LoadClient(SOURCES / "build" / "duly_load_client")


@dataclass(frozen=True, slots=True)
class LoadClient:
    """The compiled client."""

    binary: Path

    def run(self, target: str, load: Load) -> LoadResult:
        """Runs to the end. Raises ClientError with the client's own words where it fails.

        Nothing is left running, also where the wait is interrupted.
        """
        sending_s = FRAMES_TIMEOUT_S if load.frames > 0 else load.warmup_seconds + load.seconds
        command = [str(self.binary), *load.arguments(target)]
        try:
            run = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=sending_s + OVERHEAD_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise ClientError(f"{' '.join(command)}: did not end within {error.timeout:g} s") from error
        if run.returncode != 0:
            raise ClientError(f"{' '.join(command)}: status {run.returncode}: {run.stderr.strip()}")
        return LoadResult(**json.loads(run.stdout))
