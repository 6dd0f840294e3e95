"""Takes from a worker whatever running its model does not need, for good, before anything of the model is read.

What a graph, a picture or a provider's library makes the worker do is then held by the kernel: no files but those of
its model and of what is installed, no network, no other processes, no programs, no privileges, no more memory than it
may have. `landlock` and `seccomp` do it where the kernel has them; `lacking` says what it has not.

The modules that the worker needs are imported before, so that where they are installed matters little; what is loaded
later (libraries of providers) is found through the folders below. The process must have one thread until then, as
Landlock binds threads; for that OPENBLAS_NUM_THREADS is 1 in a worker.
"""

import importlib.util
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from duly.accelerators import CPU
from duly.models.digests import FILES_MAX
from duly.models.spec import ModelConfig
from duly.models.trust import Trust
from duly.mps import mps_folder
from duly.worker import kernel, landlock, seccomp
from duly.worker.errors import LoadError
from duly.worker.libraries import trusted_libraries
from duly.worker.memory import memory_bytes_max

OPEN_FILES_MAX = 1024
"""A confined worker may have so many files open at once; on lanes of accelerators it has the server's limit."""
_THREAD_LOOKS_MAX = 100
_THREAD_LOOK_SECONDS = 0.001
_OOM_SCORE = 500
"""The kernel ends a worker before the server when memory is short (proc(5), oom_score_adj from -1000 to 1000)."""

_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_IPC_LOCK, _CAP_LEASE = 1 << 1, 1 << 2, 1 << 14, 1 << 28

_PACKAGES = ("duly", "numpy", "onnxruntime", "cv2", "google.protobuf", "pydantic", "pydantic_core", "cryptography")
"""What a worker imports from, for installations that put a package elsewhere than on the import path."""
_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/local/lib",
              "/usr/local/lib64", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/nix/store",
              "/gnu/store")  # fmt: skip
_FACTS = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/filesystems",
          "/proc/sys/vm", "/proc/sys/fs/protected_hardlinks", "/sys/devices/system", "/sys/fs/cgroup",
          "/etc/localtime", "/usr/share/zoneinfo")  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

# What drivers of accelerators read and open. It has not run on a GPU. In /usr/local/nvidia containers have the driver,
# which ld.so.cache may name where LD_LIBRARY_PATH does not.
_ACCELERATOR_FACTS = ("/proc", "/sys", "/usr/share", "/etc/OpenCL", "/etc/vulkan", "/etc/nvidia", "/opt/nvidia",
                      "/usr/local/nvidia", "/opt/intel", "/opt/rocm", "/usr/local/cuda",
                      "/run/nvidia-persistenced", "/run/udev/data")  # fmt: skip
_ACCELERATOR_DEVICES = ("nvidia*", "nvidia-caps/*", "dri", "kfd", "accel", "dxg", "nvhost*", "nvmap", "shm", "apex*")
_LIBRARY_PATHS = ("LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_PATH", "CUDA_HOME", "VK_ICD_FILENAMES", "VK_DRIVER_FILES",
                  "XDG_RUNTIME_DIR", "CUDA_MPS_PIPE_DIRECTORY")  # fmt: skip


def lacking() -> list[str]:
    """Says what of a whole sandbox this kernel does not have, each as the end of a sentence; empty: nothing."""
    version = landlock.abi()
    found = []
    if not version:
        found.append("no Landlock (Linux 5.13 with CONFIG_SECURITY_LANDLOCK): workers can read and write files")
    elif version < landlock.ABI_SCOPE and not seccomp.available():
        found.append(f"Landlock has version {version} of {landlock.ABI_SCOPE}: workers can signal other processes")
    if not seccomp.available():
        found.append(
            f"no filter of system calls (seccomp) on this {kernel.MACHINE}: workers can connect and run programs"
        )
    return found


def confine_for(body: Mapping[str, Any]) -> None:
    """Confines this process as the body of a LOAD message says. Raises LoadError as `confine` does."""
    config = ModelConfig.model_validate(body["config"])
    trust = Trust.model_validate(body.get("trust", {}))
    name, model_folder = str(body["model"]).partition("/")[0], Path(body["model_folder"])
    libraries = trusted_libraries(config, name, model_folder, trust.libraries_sha256)
    own = [Path(body["engines"])] if body.get("engines") else []
    confine(trust, config, str(body["lane"]), Path(body["folder"]), model_folder, libraries, own)


def confine(
    trust: Trust,
    config: ModelConfig,
    lane: str,
    folder: Path,
    model_folder: Path,
    libraries: Iterable[Path] = (),
    own: Iterable[Path] = (),
) -> None:
    """Confines this process for good, as far as `trust` says and the kernel can.

    `folder`, `model_folder`: those of the version and of the model, behind links. `libraries`: other files that the
    model may read. `own`: folders that it may write to, beside those of the settings.

    Raises:
        LoadError: the sandbox is required, and cannot be had in whole.
    """
    if trust.sandbox == "off":
        return
    wanting = lacking()
    accelerated = not lane.startswith("cpu:") or any(provider.name != CPU for provider in config.providers)
    _limit(trust, accelerated)
    try:
        kernel.no_new_privileges()
        if kernel.MACHINE in (kernel.X86_64, kernel.AARCH64):
            kept = _CAP_DAC_READ_SEARCH | _CAP_IPC_LOCK | _CAP_LEASE | (_CAP_DAC_OVERRIDE if trust.cache_folders else 0)
            kernel.keep_capabilities(kept)
        if landlock.abi():
            others = _other_threads()
            if others and landlock.abi() < landlock.ABI_ALL_THREADS:
                wanting.append(f"{others} threads were there before it and are not bound by Landlock")
            landlock.restrict_files(
                [
                    *_readable(folder, model_folder, config),
                    *libraries,
                    *map(Path, _ACCELERATOR_FACTS if accelerated else ()),
                ],
                [*map(Path, _DEVICES), *(_accelerators() if accelerated else ())],
                [*map(Path, trust.cache_folders), *own],
            )
        if seccomp.available():
            seccomp.refuse_calls(seccomp.Allowed(unix_sockets=accelerated, pinning=accelerated))
    except OSError as error:
        wanting.append(f"the kernel refuses it: {error.strerror}")
    if trust.sandbox == "require" and wanting:
        raise LoadError(f"sandbox = require, but {'; '.join(wanting)}; with auto it is confined as far as possible")


def _other_threads() -> int:
    """Returns how many threads there are beside this one. One that has ended may be there for a moment more."""
    for _ in range(_THREAD_LOOKS_MAX):
        if len(os.listdir("/proc/self/task")) == 1:
            return 0
        time.sleep(_THREAD_LOOK_SECONDS)
    return len(os.listdir("/proc/self/task")) - 1


def _limit(trust: Trust, accelerated: bool) -> None:
    """Sets what the kernel lets this process have. Limits that are lower already stay."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(_OOM_SCORE))
    _lower(resource.RLIMIT_CORE, 0)  # what clients sent must not lie on a disk
    if not accelerated:
        _lower(resource.RLIMIT_NOFILE, OPEN_FILES_MAX)
    # Drivers of accelerators count what lies on the device, too. Elsewhere the machine's memory is the most.
    if trust.worker_memory_bytes_max or not accelerated:
        _lower(resource.RLIMIT_DATA, trust.worker_memory_bytes_max or memory_bytes_max())


def _lower(limit: int, value: int) -> None:
    with suppress(OSError, ValueError):
        hard = resource.getrlimit(limit)[1]
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lowest, lowest))


# ---- what it may read ----


def _readable(folder: Path, model_folder: Path, config: ModelConfig) -> Iterator[Path]:
    yield from map(Path, (*_LIBRARIES, *_FACTS))
    yield folder
    yield model_folder
    yield from _linked(folder, config)
    hidden = model_folder.parent
    paths = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sys.path]
    for name in _LIBRARY_PATHS:
        paths += os.environ.get(name, "").replace(" ", os.pathsep).split(os.pathsep)
    for path in sorted({os.path.realpath(path) for path in paths if path and os.path.isabs(path)} - {"/"}):
        # An installation in /usr has its modules in /usr/lib, and /usr/bin is of no use.
        if path not in ("/usr", "/usr/local"):
            yield from _without(Path(path), hidden)
    yield from _packages()


def _without(folder: Path, hidden: Path) -> Iterator[Path]:
    """Yields `folder`, or what lies in it beside `hidden` where that is below it: the other models stay hidden."""
    if folder == hidden or not hidden.is_relative_to(folder):
        yield from () if folder == hidden else (folder,)
        return
    with suppress(OSError):
        for inside in folder.iterdir():
            if not inside.is_symlink():
                yield from _without(inside, hidden)


def _packages() -> Iterator[Path]:
    for name in _PACKAGES:
        with suppress(ImportError, ValueError):
            found = importlib.util.find_spec(name)
            yield from map(Path, (found.submodule_search_locations or ()) if found else ())


def _linked(folder: Path, config: ModelConfig) -> Iterator[Path]:
    """Yields the files that links in a version's folder lead to, as in folders of Hugging Face: graphs anywhere, and
    external data where `version_files` takes it from.
    """
    graphs = {os.path.join(folder, variant.file) for variant in config.variants}
    homes = {folder, *(Path(os.path.realpath(graph)).parent for graph in graphs)}
    count = 0
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            count += 1
            if count > FILES_MAX:
                return
            path = os.path.join(parent, name)
            if os.path.islink(path) and os.path.isfile(path):
                target = Path(os.path.realpath(path))
                if path in graphs or any(target.is_relative_to(home) for home in homes):
                    yield target


def _accelerators() -> Iterable[Path]:
    devices = [path for pattern in _ACCELERATOR_DEVICES for path in Path("/dev").glob(pattern)]
    pipes = mps_folder(os.environ)
    return devices if pipes is None else [*devices, pipes]
