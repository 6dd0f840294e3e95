"""Control groups of workers: on a folder that is laid out and behaves like the kernel's, and on the kernel's own where
this process may make groups there.
"""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from duly.runtime import worker_groups
from duly.runtime.worker_groups import BESIDE_BYTES, Home, NoGroups, WorkerGroups, find_home

MOUNT = "sys/fs/cgroup"
FILES = ("cgroup.procs", "cgroup.subtree_control", "cgroup.type", "cgroup.kill")
OF_CONTROLLERS = {
    "cpu": ("cpu.weight", "cpu.idle"),
    "memory": ("memory.max", "memory.swap.max", "memory.oom.group"),
    "pids": ("pids.max",),
}
MACHINE = 8 << 30


def filled(folder: Path) -> None:
    """Puts the files there that a kernel would."""
    above = folder.parent / "cgroup.controllers"
    controllers = above.read_text() if above.exists() else ""
    for name in FILES:
        (folder / name).touch()
    (folder / "cgroup.controllers").write_text(controllers)
    for controller in controllers.split():
        for name in OF_CONTROLLERS.get(controller, ()):
            (folder / name).touch()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a container whose group this process is alone in. Groups are made and removed as a kernel does it."""
    make = Path.mkdir

    def mkdir(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        new = not self.exists()
        make(self, mode, parents, exist_ok)
        if new and MOUNT in str(self):
            filled(self)

    def rmdir(self: Path) -> None:
        if (self / "cgroup.procs").read_text():
            raise OSError(errno.EBUSY, "busy")
        shutil.rmtree(self)

    (tmp_path / MOUNT).mkdir(parents=True)
    (tmp_path / MOUNT / "cgroup.controllers").write_text("cpuset cpu io memory pids")
    for name in FILES:
        (tmp_path / MOUNT / name).touch()
    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", rmdir)
    monkeypatch.setattr(worker_groups, "memory_bytes_max", lambda: MACHINE)
    runs_in(tmp_path, "/")
    return tmp_path


def runs_in(root: Path, group: str) -> Path:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(f"1:name=systemd:/elsewhere\n0::{group}\n")
    folder = root / MOUNT / group.strip("/")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def marked(folder: Path) -> None:
    try:
        os.setxattr(folder, "user.delegate", b"1")
    except OSError:
        pytest.skip("this file system has no extended attributes")


def test_server_and_workers_get_groups_that_end_with_them(root: Path) -> None:
    home = find_home(root)
    assert (home.folder, home.own, home.controllers, home.missing) == (
        root / MOUNT,
        root / MOUNT,
        ("memory", "cpu", "pids"),
        "",
    )
    (home.folder / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (home.folder / f"duly-worker-{2**30}-0").mkdir()  # of a server that is gone
    groups = WorkerGroups(home)
    assert (home.folder / "duly-server/cgroup.procs").read_text() == str(os.getpid())
    assert (home.folder / "duly-server/cpu.weight").read_text() == "1000"
    first, second = groups.add(), groups.add()
    assert first is not None
    assert second is not None
    assert {path.name for path in home.folder.glob("duly-*")} == {"duly-server", first.folder.name, second.folder.name}
    kept = MACHINE - (512 << 20)
    limits = {"memory.max": str(kept), "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "1024"}
    assert {name: (first.folder / name).read_text() for name in limits} == limits
    assert not first.hold(0, 1 << 20), "no worker is there yet"
    assert (first.folder / "memory.max").read_text() == str(kept)
    (first.folder / "cgroup.procs").write_text("77\n")
    assert first.hold(160 << 20, 30 << 20)
    assert (first.folder / "memory.max").read_text() == str((200 << 20) + BESIDE_BYTES)
    second.step_back()
    assert [(second.folder / name).read_text() for name in OF_CONTROLLERS["cpu"]] == ["1", "1"]
    second.hold(MACHINE, 0)
    assert [(second.folder / name).read_text() for name in OF_CONTROLLERS["cpu"]] == ["100", "0"]
    assert (second.folder / "memory.max").read_text() == str(kept)
    first.remove()
    assert first.folder.exists(), "what its worker has left there is killed first"
    assert (first.folder / "cgroup.kill").read_text() == "1"
    (first.folder / "cgroup.procs").write_text("")
    second.remove()
    assert not second.folder.exists()
    assert groups.add() is not None
    assert not first.folder.exists()


def test_a_group_without_all_controllers_is_used_as_far_as_it_goes(root: Path) -> None:
    (root / MOUNT / "cgroup.controllers").write_text("cpu pids")
    home = find_home(root)
    assert home.missing == "memory"
    group = WorkerGroups(home).add()
    assert group is not None
    assert not (group.folder / "memory.max").exists()
    assert (group.folder / "pids.max").read_text() == "1024"


@pytest.mark.parametrize("group", ["/system.slice/duly.service", "/system.slice/duly.service/supervisor"])
def test_a_service_to_which_systemd_gives_its_group(root: Path, group: str) -> None:
    own = runs_in(root, group)
    service = root / MOUNT / "system.slice/duly.service"
    with pytest.raises(NoGroups, match="Delegate=yes"):
        find_home(root)
    filled(service)
    marked(service)
    (service / "cgroup.controllers").write_text("cpu memory pids")
    home = find_home(root)
    assert (home.folder, home.own) == (service, own)
    (own / "cpu.weight").touch()
    WorkerGroups(home)
    assert ((service / "duly-server" if own == service else own) / "cpu.weight").read_text() == "1000"


def test_a_unit_below_a_group_that_was_given_to_another_manager_is_left_alone(root: Path) -> None:
    runs_in(root, "/user@7.service/other.service")
    marked(root / MOUNT / "user@7.service")
    with pytest.raises(NoGroups, match="Delegate=yes"):
        find_home(root)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda root: (root / "proc/self/cgroup").write_text("4:memory:/\n"), "version 2 are not mounted"),
        (lambda root: (root / MOUNT / "cgroup.controllers").unlink(), "version 2 are not mounted"),
        (lambda root: (root / "proc/self/cgroup").write_text("0::/../other\n"), "not among those that are mounted"),
        (lambda root: (root / MOUNT / "cgroup.type").unlink(), "not given to the server"),  # the root of the machine
        (lambda root: (root / MOUNT / "cgroup.controllers").write_text("hugetlb io"), "no controllers of memory"),
        (lambda root: (root / MOUNT / "cgroup.subtree_control").unlink(), "cannot be written"),
    ],
)
def test_where_there_can_be_none_it_is_said_why(root: Path, change: object, why: str) -> None:
    change(root)  # type: ignore[operator]
    with pytest.raises(NoGroups, match=why):
        find_home(root)


def test_the_host_s_name_of_a_container_s_root_is_looked_for_there(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/docker/9f3c\n")
    assert find_home(root).own == root / MOUNT


def test_a_group_that_cannot_be_divided_is_left(root: Path) -> None:
    home = Home(root / MOUNT, root / MOUNT, ("memory",))
    (root / MOUNT / "cgroup.subtree_control").unlink()
    with pytest.raises(NoGroups, match="cannot be divided"):
        WorkerGroups(home)


# ---- on the kernel's own ----


@pytest.fixture
def real() -> Iterator[Path]:
    """A group of the kernel's, empty and without controllers."""
    mounts = [Path("/", MOUNT), Path("/", MOUNT, "unified")]
    mount = next((each for each in mounts if (each / "cgroup.procs").exists()), None)
    if mount is None:
        pytest.skip("control groups of version 2 are not mounted")
    folder = mount / f"duly-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made: {error.strerror}")
    yield folder
    for inside in (*folder.iterdir(), folder):
        if inside.is_dir():
            inside.rmdir()


MOVED = """
import pathlib, subprocess, sys
from duly.runtime.worker_groups import Home, WorkerGroups
folder = pathlib.Path(sys.argv[1])
(folder / "cgroup.procs").write_text("0")
groups = WorkerGroups(Home(folder, folder, ()))
group = groups.add()
join = "import sys; from duly.worker.main import _join_group; _join_group(sys.argv[1]); print(1, flush=True); input()"
with subprocess.Popen([sys.executable, "-c", join, str(group.folder)], stdin=-1, stdout=-1) as worker:
    worker.stdout.readline()
    print(group.hold(1 << 30, 0), open(f"/proc/{worker.pid}/cgroup").read().rpartition("/")[2].strip())
    group.remove()
    assert worker.wait() == -9
print(open("/proc/self/cgroup").read().rpartition("/")[2].strip())
group = groups.add()
print(*(path.name for path in folder.glob("duly-worker-*")))
group.remove()
"""


def test_a_process_joins_and_what_is_left_in_its_group_is_killed(real: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MOVED, str(real)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, server, second = done.stdout.splitlines()
    assert told.startswith("True duly-worker-")
    assert told.endswith("-0")
    assert server == "duly-server"
    assert second.endswith("-1"), "the first one is gone"
    assert not list(real.glob("duly-worker-*"))
