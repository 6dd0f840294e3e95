"""How many CPUs the server believes it may use: by real files in the layout of the kernel's, under another root."""

import os
from pathlib import Path

import pytest

from duly import cgroups, cpus
from duly.cpus import default_threads

CGROUP = "sys/fs/cgroup"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a host with 32 CPUs and no quota."""
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(32)))
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        pytest.param({}, 32, id="no control groups"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "300000 100000\n"}, 3, id="container"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "max 100000\n"}, 32, id="no quota"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "250000 100000\n"}, 2, id="a fraction more"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "50000 100000\n"}, 1, id="half a CPU"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "40000 10000\n"}, 4, id="another period"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "6400000 100000\n"}, 32, id="more than all"),
        pytest.param({"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "garbage\n"}, 32, id="nonsense"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/system.slice/duly.service\n",
                f"{CGROUP}/system.slice/duly.service/cpu.max": "600000 100000\n",
            },
            6,
            id="a service of systemd",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/kubepods/burstable/pod9/c1\n",
                f"{CGROUP}/kubepods/burstable/pod9/c1/cpu.max": "max 100000\n",
                f"{CGROUP}/kubepods/burstable/pod9/cpu.max": "200000 100000\n",
                f"{CGROUP}/kubepods/cpu.max": "1600000 100000\n",
            },
            2,
            id="a group above has the quota",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/docker/9f3c\n", f"{CGROUP}/cpu.max": "500000 100000\n"},
            5,
            id="the host's name of a group that is the root here",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/../other\n", f"{CGROUP}/cpu.max": "700000 100000\n"},
            7,
            id="outside the namespace",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:memory:/docker/9f3c\n4:cpu,cpuacct:/docker/9f3c\n0::/\n",
                f"{CGROUP}/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                f"{CGROUP}/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            4,
            id="version 1 in a container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "3:cpu:/lab/duly\n",
                f"{CGROUP}/cpu/cpu.cfs_quota_us": "-1\n",
                f"{CGROUP}/cpu/cpu.cfs_period_us": "100000\n",
                f"{CGROUP}/cpu/lab/cpu.cfs_quota_us": "900000\n",
                f"{CGROUP}/cpu/lab/cpu.cfs_period_us": "100000\n",
                f"{CGROUP}/cpu/lab/duly/cpu.cfs_quota_us": "-1\n",
                f"{CGROUP}/cpu/lab/duly/cpu.cfs_period_us": "100000\n",
            },
            9,
            id="version 1, a group above",
        ),
    ],
)
def test_the_smallest_quota_binds(host: Path, files: dict[str, str], usable: int) -> None:
    write(host, files)
    assert cpus.usable_cpus() == usable
    assert default_threads() == max(1, usable - 1)


def test_affinity_binds_below_the_quota(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(host, {"proc/self/cgroup": "0::/\n", f"{CGROUP}/cpu.max": "800000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 4})
    assert cpus.usable_cpus() == 2


def test_this_machine_has_some() -> None:
    assert 1 <= cpus.usable_cpus() <= len(os.sched_getaffinity(0))
