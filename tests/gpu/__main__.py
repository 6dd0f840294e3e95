"""`python -m tests.gpu`: makes the record of this machine's GPU, a folder that can be committed."""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from functools import partial
from pathlib import Path

from tests.gpu import nvidia_smi
from tests.gpu.installing import TENSORRT_TOO, library_folders
from tests.gpu.report import SIZE_BYTES_MAX, write_report
from tests.gpu.requirements import CHECKOUT
from tests.gpu.stages import (
    INSTALL,
    REHEARSAL_SECONDS,
    RUN_SECONDS,
    STAGES,
    Asked,
    Ended,
    Interrupted,
    Stage,
    interruptible,
    run_all,
    say_to,
)

WORK = CHECKOUT / "build/gpu"
RECORDS = CHECKOUT / "docs/records/gpu"
LANE = "cuda:0"
PYTHON_MIN = (3, 11)
EXIT_INTERRUPTED = 130


def main() -> int:
    began_s = time.monotonic()
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu",
        description=f"Makes the record of a GPU, in {RUN_SECONDS / 60:g} minutes at most.",
        epilog="stages: " + "; ".join(f"{stage.key} ({stage.title})" for stage in STAGES),
    )
    parser.add_argument("--offline", type=Path, metavar="DIR", help="install from the wheels in this folder")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of the record; default: docs/records/gpu/…")
    parser.add_argument(
        "--work", type=Path, default=WORK, metavar="DIR", help="for the environment, logs and what is not kept"
    )
    parser.add_argument("--lane", default=None, help=f"default: {LANE}; of a rehearsal cpu:0")
    parser.add_argument("--stages", default="", help="some of them, with commas between")
    parser.add_argument(
        "--libraries", type=Path, nargs="*", default=[], metavar="DIR", help="with TensorRT's, or CUDA's"
    )
    parser.add_argument("--tensorrt", action="store_true", help="fetch TensorRT, too, which NVIDIA's own index has")
    parser.add_argument(
        "--commit", default="", help="that of this tree, where it came without .git: it is written into the record"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="short measurements in this Python, without a GPU: no record"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="only install, however long it takes: for slow connections, beforehand"
    )
    parser.add_argument("--here", action="store_true", help="install nothing, as this Python has all that is needed")
    given = parser.parse_args()
    if sys.version_info < PYTHON_MIN or platform.system() != "Linux":
        parser.error(f"needs Linux, and Python {'.'.join(map(str, PYTHON_MIN))} or newer: make gpu PYTHON=python3.12")
    if given.commit and re.fullmatch(r"[0-9a-f]{7,40}", given.commit) is None:
        parser.error(f"--commit {given.commit}: is no commit: 7 to 40 digits of 0 to f")
    if given.tensorrt and (given.here or given.rehearse or given.offline is not None):
        parser.error("--tensorrt: nothing is fetched with --here, --rehearse or --offline (wheels may be laid with it)")
    lane = given.lane or ("cpu:0" if given.rehearse else LANE)
    names = given.stages.split(",") if given.stages else [stage.key for stage in STAGES]
    if unknown := [name for name in names if name not in [stage.key for stage in STAGES]]:
        parser.error(f"no such stage: {', '.join(unknown)}; there are {', '.join(stage.key for stage in STAGES)}")
    if given.prepare:
        return _prepare(given)
    if given.rehearse:
        device = "rehearsal"
    else:
        try:
            device = _device(lane)
        except nvidia_smi.NoGpu as error:
            sys.stderr.write(f"make gpu needs a GPU: {error}\nGPU_ARGS=--rehearse tries its logic without one\n")
            return 2
    out = given.out or _folder(device, given.work if given.rehearse else RECORDS)
    if out.exists() and any(out.iterdir()):
        parser.error(f"--out {out}: is there already; name a new folder")
    installs = given.offline is not None or not (given.here or given.rehearse)
    run = _Run(given, lane, out, [INSTALL] * installs + [stage for stage in STAGES if stage.key in names], began_s)
    with interruptible():
        return run.all(device)


class _Run:
    """One run, from its stages to its record."""

    def __init__(self, given: argparse.Namespace, lane: str, out: Path, stages: list[Stage], began_s: float) -> None:
        self._given = given
        self._lane = lane
        self._out = out.absolute()
        self._stages = stages
        self._began_s = began_s
        self._home = given.work.absolute() / "venv"
        self._logs = given.work.absolute() / "logs" / out.name
        self._installs = INSTALL in stages
        self._python = self._home / "bin/python" if self._installs else Path(sys.executable)

    def all(self, device: str) -> int:
        """Runs the stages and writes the record, whatever happens. Returns the exit status: 0 where nothing failed."""
        say, ended = say_to(), list[Ended]()
        seconds_max = REHEARSAL_SECONDS if self._given.rehearse else RUN_SECONDS
        self._out.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(prefix="scratch-", dir=self._given.work) as scratch:
                launch = partial(self._launch, Path(scratch).absolute())
                for each in run_all(self._stages, launch, self._logs, self._began_s, say, seconds_max):
                    ended.append(each)
        except (KeyboardInterrupt, Interrupted):  # before a stage had begun
            ended += [Ended(each.key, each.title, "interrupted", 0.0) for each in self._stages[len(ended) :]]
        finally:
            seconds = time.monotonic() - self._began_s
            size = write_report(self._out, device, self._lane, ended, seconds, self._given.rehearse)
        say(f"{self._out / 'report.md'}: {seconds:.0f} s in all; the logs are in {self._logs}")
        if size > SIZE_BYTES_MAX:
            say(f"{self._out}: {size:,} bytes are too many to be committed, should be {SIZE_BYTES_MAX:,} at most")
        statuses = {each.status for each in ended}
        return EXIT_INTERRUPTED if "interrupted" in statuses else int(bool(statuses & {"failed", "stopped"}))

    def _launch(self, scratch: Path, stage: Stage, seconds: float) -> tuple[list[str], Mapping[str, str]]:
        if stage is INSTALL:
            return _installs(self._given, self._logs), os.environ
        rehearsal, commit = self._given.rehearse, self._given.commit
        asked = Asked(stage.key, self._lane, stage.provider, self._out, scratch, seconds, rehearsal, commit)
        return [str(self._python), "-m", "tests.gpu.stage", stage.name, asked.to_json()], self._environ()

    def _environ(self) -> dict[str, str]:
        environ = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
        if self._installs:
            environ.pop("PYTHONPATH", None)
        folders = library_folders(self._python, [each.absolute() for each in self._given.libraries])
        paths = [*map(str, folders), *filter(None, [environ.get("LD_LIBRARY_PATH", "")])]
        return environ | ({"LD_LIBRARY_PATH": os.pathsep.join(paths)} if paths else {})


def _installs(given: argparse.Namespace, logs: Path) -> list[str]:
    """Returns the command that makes the environment."""
    words = [str(given.work.absolute() / "venv"), "cpu" if given.rehearse else "gpu", str(logs / "pip.log")]
    offline = [str(given.offline.absolute())] if given.offline is not None else []
    return [sys.executable, "-m", "tests.gpu.installing", *[TENSORRT_TOO] * given.tensorrt, *words, *offline]


def _prepare(given: argparse.Namespace) -> int:
    logs = given.work.absolute() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    return subprocess.run(_installs(given, logs), cwd=CHECKOUT, check=False).returncode


def _device(lane: str) -> str:
    """Returns the name of the lane's GPU. Raises NoGpu."""
    found = re.fullmatch(r"cuda:([0-9]{1,3})", lane)
    if found is None:
        raise nvidia_smi.NoGpu(f"the lane {lane} is none of NVIDIA's; with --rehearse any lane may be tried")
    names = nvidia_smi.listed()
    nvidia_smi.check_driver()
    if int(found[1]) >= len(names):
        raise nvidia_smi.NoGpu(f"the lane {lane}: there are {len(names)} GPUs, counted from 0")
    return names[int(found[1])]


def _folder(device: str, home: Path) -> Path:
    """Returns a folder in `home` that is not there yet."""
    name = f"{date.today().isoformat()}-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}"
    taken = 2
    out = home / name
    while out.exists():
        out = home / f"{name}-{taken}"
        taken += 1
    return out


if __name__ == "__main__":
    sys.exit(main())
