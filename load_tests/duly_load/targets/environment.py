"""A virtual environment of a peer's own, below the user's cache folder.

    <cache root>/peers/NAME-VERSION-pyX.Y   whole and as asked for, or not there
                       .partial-*           one that is being built, of whoever holds the lock
                       .lock                flock, released by the kernel when its holder dies

It is built aside and renamed when it is whole. Scripts in its `bin` name the folder where it was built: run modules
with its interpreter instead.
"""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from duly_load.targets.peer import PeerError

TOLD = ("Collecting ", "Downloading ", "Building ", "Installing ", "Successfully ")
"""The beginnings of pip's lines that are shown as progress."""
COMPLAINT_LINES = 5


def peers_dir() -> Path:
    """`$DULY_CACHE_DIR/peers`, else that of the user's cache folder."""
    return Path(os.environ.get("DULY_CACHE_DIR") or platformdirs.user_cache_dir("duly")) / "peers"


@dataclass(frozen=True, slots=True)
class Environment:
    """What a peer needs to run."""

    name: str
    """The peer's name."""
    requirements: tuple[str, ...]
    """Requirements for pip, as NAME==VERSION; the first is the peer itself."""

    @property
    def folder(self) -> Path:
        version = self.requirements[0].partition("==")[2]
        return peers_dir() / f"{self.name}-{version}-py{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        return self.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

    def missing(self) -> str:
        """What to type where it is not there, or not as asked for; empty: it is."""
        advice = f"duly-load peers install {self.name}"
        if not self.python.exists():
            return f"it is not installed: {advice}"
        if _read(self.folder / "requirements.txt") != self._wanted:
            return f"it is installed with other packages than {', '.join(self.requirements)}: {advice}"
        return ""

    def install(self, say: Callable[[str], None]) -> None:
        """Builds it anew and puts it in the place of what is there. Whoever waits while another one builds it takes
        that. Raises PeerError.
        """
        before = self._built_ns()
        try:
            peers_dir().mkdir(parents=True, exist_ok=True)
            with _locked(say), _scratch() as scratch:
                if self._built_ns() != before and not self.missing():
                    return
                self._build(scratch / "new", say)
                if self.folder.exists():
                    self.folder.rename(scratch / "old")
                (scratch / "new").rename(self.folder)
        except OSError as error:
            raise PeerError(f"{self.name} can't be installed: {error.filename}: {error.strerror}") from error
        say(f"{self.name}: installed in {self.folder}")

    @property
    def _wanted(self) -> str:
        return "".join(f"{requirement}\n" for requirement in self.requirements)

    def _built_ns(self) -> int:
        try:
            return (self.folder / "requirements.txt").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _build(self, folder: Path, say: Callable[[str], None]) -> None:
        say(f"{self.name}: making an environment with Python {platform.python_version()}")
        # Without a pip of its own, which would take longer than many a package: the one of this interpreter serves.
        self._run([sys.executable, "-P", "-m", "venv", "--without-pip", str(folder)], say)
        (folder / "requirements.txt").write_text(self._wanted, encoding="utf-8")
        pip = [sys.executable, "-P", "-m", "pip", "--python", str(folder / "bin" / "python"), "--no-input"]
        pip += ["--disable-pip-version-check", "install", "--progress-bar", "off"]
        self._run([*pip, *self.requirements], say)

    def _run(self, command: list[str], say: Callable[[str], None]) -> None:
        """Runs it to its end, which pip's own timeouts bound, and shows the lines that are progress."""
        last: list[str] = []
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environ,
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    last = [*last, line.strip()][-COMPLAINT_LINES:]
                    if line.lstrip().startswith(TOLD):
                        say(f"{self.name}: {line.strip()}")
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise PeerError(
                f"{self.name} can't be installed, `{' '.join(command[:3])}` ended with status {process.returncode}: "
                f"{' / '.join(line for line in last if line)}. Check the network and the index that pip uses "
                f"(`{sys.executable} -m pip config list`), then try again; where there is no pip, "
                f"`{sys.executable} -m ensurepip` installs it"
            )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


@contextmanager
def _locked(say: Callable[[str], None]) -> Iterator[None]:
    with (peers_dir() / ".lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another installation to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _scratch() -> Iterator[Path]:
    """An empty folder on the same file system, so that a rename out of it is atomic. What a killed installation left
    is cleared first.
    """
    for debris in peers_dir().glob(".partial-*"):
        shutil.rmtree(debris, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=peers_dir(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)
