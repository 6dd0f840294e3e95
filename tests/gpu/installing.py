"""Makes the environment that the stages run in: online, or from wheels that were laid there. Needs nothing but Python.

python -m tests.gpu.installing [--tensorrt] HOME EXTRA LOG [FOLDER]
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.gpu.parts import Manifest, PartsError, joined, read_manifest
from tests.gpu.requirements import CHECKOUT, EXTRAS, requirements

UNPACKED = 3
"""What is installed takes so many times the bytes of its wheels on the disk, with them joined beside it, at most."""
MADE_OF = ".made-of"
"""A file in an environment that is whole, which says of what."""
COMPLAINT_LINES = 5
TENSORRT_TOO = "--tensorrt"
CUDA_LIBRARIES = ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcudnn.so.9", "libcurand.so.10")
"""What onnxruntime-gpu calls of CUDA 13, and looks for beside itself and on the search path."""
TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10")
"""What its provider of TensorRT calls."""
_CUDA, _TENSORRT = "nvidia/*/lib", "tensorrt_libs"
"""Where packages of Python have them."""


class InstallError(Exception):
    """There is no environment. The message says why, and what would be right."""


def install(home: Path, offline: Path | None, extra: str, log: Path, tensorrt: bool = False) -> Path:
    """Makes the environment `home` anew, unless it was made of the same before, and returns its Python. `extra`: `gpu`
    or `cpu`, which wheels that were laid decide by what they are. `log`: for what pip says. `tensorrt`: whether it is
    fetched as well, where nothing was laid.

    Raises InstallError, and PartsError where the folder of wheels is not whole.
    """
    python = home / "bin" / "python"
    manifest = None if offline is None else read_manifest(offline)
    if offline is not None:
        extra = _extra(offline, manifest)
    if manifest is not None:
        check_fits(manifest)
    plain = [] if offline is None else sorted(path.name for path in offline.glob("*.whl"))
    made_of = repr(
        (sys.version, extra, tensorrt, (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"), manifest, plain)
    )
    if (home / MADE_OF).is_file() and (home / MADE_OF).read_text(encoding="utf-8") == made_of:
        return python
    home.parent.mkdir(parents=True, exist_ok=True)
    whole = home.with_name(f"{home.name}-wheels")
    wanted = requirements(
        extra, cuda_libraries=offline is None and extra == "gpu", tensorrt=tensorrt and offline is None
    )
    # What was fetched is kept: an installation that is stopped does not start from nothing when it is run again.
    options = ["--cache-dir", str(home.with_name("fetched"))]
    try:
        if offline is not None:
            options = ["--no-cache-dir", "--no-index", "--find-links", str(offline if manifest is None else whole)]
        if offline is not None and manifest is not None:
            check_room(home.parent, manifest)
            joined(offline, manifest, whole)
            wanted = [*dict.fromkeys([*wanted, *manifest.asks])]
        shutil.rmtree(home, ignore_errors=True)
        with log.open("w", encoding="utf-8") as said:
            pip = _environment(home, said.fileno())
            command = [*pip, "install", "--no-input", "--progress-bar", "off", *options]
            _run([*command, "--editable", f"{CHECKOUT}[{','.join((extra, *EXTRAS))}]", *wanted], log, said.fileno())
    finally:
        shutil.rmtree(whole, ignore_errors=True)
    (home / MADE_OF).write_text(made_of, encoding="utf-8")
    return python


def _extra(folder: Path, manifest: Manifest | None) -> str:
    """Returns the extra of duly whose ONNX Runtime was laid there."""
    names = [path.name for path in folder.glob("*.whl")] if manifest is None else [file.name for file in manifest.files]
    return "gpu" if any(name.startswith("onnxruntime_gpu-") for name in names) else "cpu"


def check_fits(manifest: Manifest) -> None:
    """Raises InstallError where the wheels are for another Python or another machine than this."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if manifest.python != here:
        raise InstallError(
            f"the wheels are for Python {manifest.python}, and this is {here}: start it with "
            f"PYTHON=python{manifest.python}, or lay the folder anew with --python {here}"
        )
    if manifest.machine != platform.machine():
        raise InstallError(f"the wheels are for {manifest.machine}, and this machine is {platform.machine()}")


def check_room(folder: Path, manifest: Manifest) -> None:
    """Raises InstallError where what is installed will not fit on the disk of `folder`."""
    needed, free = UNPACKED * manifest.size_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise InstallError(f"build: {needed / 1e6:,.0f} MB are needed on its disk, {free / 1e6:,.0f} MB are free")


def _environment(home: Path, output: int) -> list[str]:
    """Makes an empty environment, and returns the pip that installs into it: this Python's, else one of its own."""
    has_pip = importlib.util.find_spec("pip") is not None
    command = [sys.executable, "-m", "venv", *(["--without-pip"] if has_pip else []), str(home)]
    done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise InstallError(
            "this Python can't make a virtual environment, as it has neither pip nor ensurepip; on Debian and Ubuntu: "
            "apt install python3-venv"
        )
    python = str(home / "bin" / "python")
    plain = ["--disable-pip-version-check"]
    return [sys.executable, "-m", "pip", "--python", python, *plain] if has_pip else [python, "-m", "pip", *plain]


def _run(command: Sequence[str], log: Path, output: int) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environ, check=False)
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line.strip() for line in lines if "error" in line.lower()] or lines
        raise InstallError(f"pip ended with status {done.returncode}: {' / '.join(said[-COMPLAINT_LINES:])}")


# ---- libraries of CUDA that are on no search path ----


def library_folders(python: Path, named: Iterable[Path]) -> list[Path]:
    """Returns the folders of libraries that LD_LIBRARY_PATH must name for the stages: those that were `named`, those of
    NVIDIA's packages in the environment of `python`, and where that lacks some of CUDA or of TensorRT, those beside
    this Python, such as PyTorch's.
    """
    own = [*(python.parent.parent / "lib").glob("python3*/site-packages")]
    found = [*named, *_below(own, _CUDA), *_below(own, _TENSORRT)]
    for pattern, libraries in ((_CUDA, CUDA_LIBRARIES), (_TENSORRT, TENSORRT_LIBRARIES)):
        if not all(any((folder / library).exists() for folder in found) for library in libraries):
            found += _below([Path(entry) for entry in sys.path if entry], pattern)
    return [*dict.fromkeys(found)]


def _below(sites: Iterable[Path], pattern: str) -> list[Path]:
    return [folder for site in sites for folder in sorted(site.glob(pattern)) if folder.is_dir()]


def main() -> int:
    words = sys.argv[1:]
    home, extra, log, *offline = (word for word in words if word != TENSORRT_TOO)
    try:
        install(Path(home), Path(offline[0]) if offline else None, extra, Path(log), TENSORRT_TOO in words)
    except (InstallError, PartsError) as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
