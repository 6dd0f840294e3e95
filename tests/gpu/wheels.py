"""Lays everything that `make gpu` needs into a folder, in parts, for a machine without registries:

    python -m tests.gpu.wheels --out build/gpu-wheels [--python 3.12] [--cuda-libraries] [--tensorrt] [--part-mb 50]

pip fetches the wheels for that version of Python on Linux (glibc 2.39 or newer takes all that it may choose; --glibc
says otherwise). Run it with the same version of Python, as pip decides by its own which requirements with conditions
hold. `make gpu GPU_ARGS="--offline build/gpu-wheels"` then installs from it on the other machine.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.gpu.parts import PART_BYTES_MAX, PartsError, split
from tests.gpu.requirements import requirements

PART_MB = 50
"""Together with this checkout a part stays below 64 MiB."""
GLIBC = "2.39"
GLIBC_MIN = 5
"""The oldest one, 2.5, that wheels are made for."""
MACHINES = ("x86_64", "aarch64")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu.wheels", description="Lays wheels for make gpu --offline into a folder, in parts."
    )
    parser.add_argument("--out", type=Path, default=Path("build/gpu-wheels"), help="a folder that is new or empty")
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser.add_argument("--python", default=own, metavar="X.Y", help=f"of the other machine; default: {own}")
    parser.add_argument("--glibc", default=GLIBC, metavar="2.N", help=f"of the other machine; default: {GLIBC}")
    parser.add_argument("--machine", choices=MACHINES, default=platform.machine(), help="the kind of its processor")
    parser.add_argument("--part-mb", type=float, default=PART_MB, help="the most that a part holds, 60 at most")
    parser.add_argument(
        "--cuda-libraries",
        action="store_true",
        help="1.3 GB more: cuBLAS, cuDNN and others, where PyTorch has left none",
    )
    parser.add_argument(
        "--tensorrt",
        action="store_true",
        help="TensorRT's libraries, too; PIP_EXTRA_INDEX_URL must name NVIDIA's index",
    )
    parser.add_argument("--cpu", action="store_true", help="the CPU's ONNX Runtime, for a rehearsal")
    parser.add_argument("--add", type=Path, nargs="*", default=[], metavar="WHEEL", help="files that you have already")
    asked = parser.parse_args()
    if not re.fullmatch(r"3\.[0-9]{1,2}", asked.python):
        parser.error(f"--python {asked.python}: should be a version such as 3.12")
    if not re.fullmatch(r"2\.[0-9]{1,2}", asked.glibc):
        parser.error(f"--glibc {asked.glibc}: should be a version such as 2.39")
    if not 0 < asked.part_mb * 1e6 <= PART_BYTES_MAX:
        parser.error(f"--part-mb {asked.part_mb:g}: should be at most {PART_BYTES_MAX / 1e6:g}")
    if asked.cpu and (asked.cuda_libraries or asked.tensorrt):
        parser.error("--cpu needs neither --cuda-libraries nor --tensorrt")
    try:
        return _lay(asked)
    except PartsError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _lay(asked: argparse.Namespace) -> int:
    wanted = requirements("cpu" if asked.cpu else "gpu", asked.cuda_libraries, asked.tensorrt)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheels-", dir=asked.out.parent) as scratch:
        sys.stdout.write(f"Fetching wheels for Python {asked.python}, {asked.machine}\n")
        sys.stdout.flush()
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
             "--only-binary=:all:", "--dest", scratch, *platform_options(asked.python, asked.machine, asked.glibc),
             *wanted, *map(os.fspath, asked.add)],
            check=False,
        )  # fmt: skip
        if done.returncode:
            sys.stderr.write("pip could not fetch all of it, see above; nothing was laid\n")
            return 1
        files = sorted(Path(scratch).iterdir())
        part_bytes = round(asked.part_mb * 1e6)
        parts = split(files, asked.out, part_bytes, asked.python, asked.machine, wanted)
        total = sum(file.stat().st_size for file in files)
    sys.stdout.write(f"{asked.out}: {len(files)} files, {total / 1e6:,.0f} MB, in {parts} parts\n")
    return 0


def platform_options(python: str, machine: str, glibc: str) -> Iterator[str]:
    """Yields pip's options for another machine: it takes no range of platforms, so each that runs there is named."""
    yield from ("--implementation", "cp", "--python-version", python)
    for abi in (f"cp{python.replace('.', '')}", "abi3", "none"):
        yield from ("--abi", abi)
    for minor in range(int(glibc.partition(".")[2]), GLIBC_MIN - 1, -1):
        yield from ("--platform", f"manylinux_2_{minor}_{machine}")
    for old in ("manylinux2014", "manylinux2010", "manylinux1"):
        yield from ("--platform", f"{old}_{machine}")


if __name__ == "__main__":
    sys.exit(main())
