"""Puts each worker into a control group of its own (cgroup version 2), where this process may make some.

Theory. Limits of a process (`worker/confine.py`) hold what it maps, not what it and the kernel for it really use, and
nothing divides the processors between processes but their number of threads. A control group does both, but belongs to
whoever manages the machine. So groups are made only below one that was given to this process: systemd marks it
(Delegate=yes), and a container sees it as the root of all. A group that has groups with limits below it may hold no
processes itself, hence the server moves into one, too:

    given group ---- duly-server             cpu.weight above the workers', so that the event loop gets its turn
                \\--- duly-worker-PID-NUMBER   memory.max, memory.swap.max = 0, memory.oom.group, pids.max

A worker goes into its group by itself, as its first act: so everything that it does counts there, and the event loop
does not wait for the kernel to move it. memory.high is left alone: it makes late what it throttles, and so do quotas of
processors (cpu.max).
"""

import contextlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import structlog

from duly.worker.memory import memory_bytes_max

_log = structlog.get_logger("duly")

CONTROLLERS = ("memory", "cpu", "pids")
SERVER_WEIGHT, WORKER_WEIGHT = 1000, 100
"""How processors that are short are divided. A worker has the kernel's default."""
TASKS_MAX = 1024
"""Threads and processes of one worker."""
KEPT_BYTES_MAX = 512 << 20
KEPT_PART = 16
"""No worker's group may have the last sixteenth of the memory, at most KEPT_BYTES_MAX: it is the server's."""
BESIDE_BYTES = 256 << 20
"""What a group holds beside what a worker allocates and shares: libraries, files and what the kernel keeps for it."""
_SERVER = "duly-server"
_WORKER = "duly-worker-"
_MOVES_MAX = 8
"""Processes may start others while they are moved; after so many rounds of moving they are left alone."""
_MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
_UNITS = (".service", ".scope", ".slice")
_MARKS = ("user.delegate", "trusted.delegate")


class NoGroups(Exception):
    """This process may make no control groups; the text says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Home:
    """The group that was given to this process."""

    folder: Path
    own: Path
    """The group in which this process is now: `folder`, or one in it."""
    controllers: tuple[str, ...]
    """Those of CONTROLLERS that it has."""

    @property
    def missing(self) -> str:
        """The names of those that it does not have."""
        return ", ".join(name for name in CONTROLLERS if name not in self.controllers)


def find_home(root: Path = Path("/")) -> Home:
    """Looks for the group that was given to this process, and changes nothing. Raises NoGroups."""
    lines = _read(root / "proc/self/cgroup").splitlines()
    name = next((line[3:] for line in lines if line.startswith("0::")), None)
    mount = next((root / each for each in _MOUNTS if (root / each / "cgroup.controllers").exists()), None)
    if name is None or mount is None:
        raise NoGroups("control groups of version 2 are not mounted")
    if ".." in name.split("/"):
        raise NoGroups("the server's control group is not among those that are mounted")
    own = mount / name.lstrip("/")
    if not own.exists():
        own = mount  # the host's name of what is the root here
    # With DelegateSubgroup= the server is in a group below the given one. Units have their own managers.
    near = (own,) if own == mount or own.suffix in _UNITS else (own, own.parent)
    folder = next((each for each in near if _given(each, mount)), None)
    if folder is None:
        raise NoGroups("its control group was not given to the server: Delegate=yes in its unit of systemd does it")
    if not all(os.access(path, os.W_OK) for path in (folder, folder / "cgroup.procs", _switches(folder))):
        raise NoGroups("its control group cannot be written, as in most containers")
    there = _read(folder / "cgroup.controllers").split()
    controllers = tuple(name for name in CONTROLLERS if name in there)
    if not controllers:
        raise NoGroups("its control group has no controllers of memory, cpu and pids; those of version 1 may hold them")
    return Home(folder, own, controllers)


class WorkerGroup:
    """The group of one worker, which goes there by itself."""

    def __init__(self, folder: Path, memory_bytes_max: int, left: "list[WorkerGroup]") -> None:
        """`left`: groups that could not be removed yet."""
        self.folder = folder
        self._memory_bytes_max = memory_bytes_max
        self._left = left

    def step_back(self) -> None:
        """Lets the worker have what others leave of the processors until `hold`. What its threads do so for themselves
        (`worker/background.py`) does not reach beyond their group.
        """
        _write_all(self.folder, {"cpu.weight": "1"})
        _write_all(self.folder, {"cpu.idle": "1"})  # Linux 5.15

    def hold(self, private_bytes: int, shared_bytes: int) -> bool:
        """Lowers the limit of memory to what the worker may have: `private_bytes` (0: it stays), and its shared memory.
        It no longer steps back. Returns whether the worker is there. The kernel may take its time to find pages that it
        can drop.
        """
        _write_all(self.folder, {"cpu.idle": "0"})
        _write_all(self.folder, {"cpu.weight": str(WORKER_WEIGHT)})
        if private_bytes:
            most = private_bytes + shared_bytes + BESIDE_BYTES + private_bytes // KEPT_PART
            _write_all(self.folder, {"memory.max": str(min(most, self._memory_bytes_max))})
        return bool(_read(self.folder / "cgroup.procs").split())

    def remove(self) -> None:
        """Removes the group when its worker is gone, and kills what it left behind. As that may take a moment, the
        group is then removed when the next one is made.
        """
        if not self.removed() and self not in self._left:
            self._left.append(self)

    def removed(self) -> bool:
        """Tries to remove the group. Returns whether it is gone."""
        with contextlib.suppress(OSError):
            if not _read(self.folder / "cgroup.procs"):
                self.folder.rmdir()
                return True
            _write(self.folder / "cgroup.kill", "1")
        return not self.folder.exists()


class WorkerGroups:
    """The groups of this server's workers."""

    def __init__(self, home: Home) -> None:
        """Moves this process, and whatever else is in its group, into a group below it. Raises NoGroups."""
        self._folder = home.folder
        self._numbers = itertools.count()
        self._left: list[WorkerGroup] = []
        try:
            if home.own == home.folder:
                server = home.folder / _SERVER
                server.mkdir(exist_ok=True)
                _move_all(home.folder, server)
            else:
                server = home.own
            for controller in home.controllers:
                _write(_switches(home.folder), f"+{controller}")
        except OSError as error:
            raise NoGroups(f"its control group cannot be divided: {error.strerror}") from None
        if "cpu" in home.controllers:
            _write_all(server, {"cpu.weight": str(SERVER_WEIGHT)})
        _remove_old(home.folder)
        most = memory_bytes_max()
        self._memory_bytes_max = most - min(most // KEPT_PART, KEPT_BYTES_MAX)
        self._limits = {
            "memory.max": str(self._memory_bytes_max),
            "memory.swap.max": "0",  # what was swapped out comes back too late
            "memory.oom.group": "1",
            "pids.max": str(TASKS_MAX),
        }

    def add(self) -> WorkerGroup | None:
        """Makes a group for a worker; None: the kernel refuses it, and the worker does without."""
        self._left[:] = [group for group in self._left if not group.removed()]
        folder = self._folder / f"{_WORKER}{os.getpid()}-{next(self._numbers)}"
        try:
            folder.mkdir()
        except OSError:
            return None
        _write_all(folder, self._limits)
        return WorkerGroup(folder, self._memory_bytes_max, self._left)


def worker_groups(sandbox: str) -> WorkerGroups | None:
    """Makes control groups for workers, unless they are not confined at all; None: there are none. The log tells."""
    if sandbox == "off":
        return None
    try:
        home = find_home()
        groups = WorkerGroups(home)
    except NoGroups as error:
        _log.info("workers have no control groups of their own, only limits of processes", why=str(error))
        return None
    has = " ".join(home.controllers)
    _log.info("workers have control groups of their own", controllers=has, missing=home.missing or None)
    return groups


def _given(folder: Path, mount: Path) -> bool:
    """Returns whether the group was given to whoever runs in it. The root of a container is no root to the kernel,
    which keeps `cgroup.type` for all others.
    """
    if folder == mount:
        return (folder / "cgroup.type").exists()
    for mark in _MARKS:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, mark) == b"1":
                return True
    return False


def _move_all(source: Path, target: Path) -> None:
    for _ in range(_MOVES_MAX):
        processes = [pid for pid in _read(source / "cgroup.procs").split() if pid != "0"]
        if not processes:
            return
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                _write(target / "cgroup.procs", pid)


def _remove_old(folder: Path) -> None:
    """Removes groups of servers that are gone."""
    for group in folder.glob(f"{_WORKER}*"):
        pid = group.name.removeprefix(_WORKER).partition("-")[0]
        if pid == str(os.getpid()) or not Path("/proc", pid).exists():
            WorkerGroup(group, 0, []).remove()


def _switches(folder: Path) -> Path:
    return folder / "cgroup.subtree_control"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _write(file: Path, text: str) -> None:
    """Writes to a file of the kernel's, which is there. Raises OSError."""
    descriptor = os.open(file, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


def _write_all(folder: Path, texts: dict[str, str]) -> None:
    """Writes to those of the files that are there: a kernel has not all of them."""
    for name, text in texts.items():
        with contextlib.suppress(OSError):
            _write(folder / name, text)
