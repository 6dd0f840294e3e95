"""Confines itself as a worker does, then tries what a hijacked worker would, and prints what came of each as JSON.

python -m tests.isolation.attacks MODEL_FOLDER OTHER_FILE BYTES_MAX
"""

import ctypes
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from duly.models.spec import ModelConfig
from duly.models.trust import Trust
from duly.worker.confine import confine

_libc = ctypes.CDLL(None, use_errno=True)


def outcome(act: Callable[[], Any]) -> str:
    """Returns "done", or the name of the error."""
    try:
        act()
    except BaseException as error:
        return type(error).__name__
    return "done"


def call(number: int, *arguments: int) -> None:
    if _libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")


def libc(name: str, *arguments: Any) -> None:
    if getattr(_libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")


def grow() -> None:
    descriptor = os.memfd_create("grows", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 1 << 20)
    with mmap.mmap(descriptor, 1 << 20) as shared:
        shared[:4] = b"data"
        shared.madvise(mmap.MADV_REMOVE, 0, 1 << 20)
        assert shared[:4] == bytes(4)


def pair() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    socket.send_fds(ours, [b"message"], [0])
    assert socket.recv_fds(theirs, 16, 1)[0] == b"message"


def run_from(folder: Path) -> None:
    (folder / "program").write_bytes(Path("/proc/self/exe").read_bytes()[:64])
    (folder / "program").chmod(0o700)
    os.execv(folder / "program", ["program"])


def thread() -> None:
    started = threading.Thread(target=lambda: None)
    started.start()
    started.join()


def main(folder: Path, other: Path, bytes_max: int) -> None:
    parent = os.getppid()
    trust = Trust(sandbox="require", worker_memory_bytes_max=bytes_max)
    engines = folder.parent.parent / "engines"
    own, kept = engines / "servers/a/1", engines / "entries/key"
    for each in (own, kept):
        each.mkdir(parents=True)
    (kept / "an.engine").write_bytes(b"code")
    confine(trust, ModelConfig(), "cpu:0", folder / "1", folder, own=[own])
    tcp, udp, raw = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW)
    print(
        json.dumps(
            {
                "refused": {
                    "connect": outcome(lambda: socket.create_connection(("127.0.0.1", 1), 1)),
                    "socket_ipv6": outcome(lambda: socket.socket(socket.AF_INET6, udp)),
                    "socket_unix": outcome(lambda: socket.socket(socket.AF_UNIX, tcp)),
                    "socket_netlink": outcome(lambda: socket.socket(socket.AF_NETLINK, raw)),
                    "socket_packet": outcome(lambda: socket.socket(socket.AF_PACKET, raw)),
                    "socket_vsock": outcome(lambda: socket.socket(40, tcp)),
                    "read_passwd": outcome(lambda: Path("/etc/passwd").read_text()),
                    "read_other_model": outcome(other.read_bytes),
                    "read_parent_environment": outcome(lambda: Path(f"/proc/{parent}/environ").read_bytes()),
                    "list_root": outcome(lambda: os.listdir("/")),
                    "list_repository": outcome(lambda: os.listdir(folder.parent)),
                    "write_model": outcome(lambda: (folder / "1/new").write_bytes(b"")),
                    "write_engine": outcome(lambda: (kept / "an.engine").write_bytes(b"")),
                    "read_engine": outcome(lambda: (kept / "an.engine").read_bytes()),
                    "add_engine": outcome(lambda: (kept / "new").write_bytes(b"")),
                    "move_engine": outcome(lambda: (kept / "an.engine").rename(own / "an.engine")),
                    "link_engine": outcome(lambda: (own / "link").hardlink_to(kept / "an.engine")),
                    "write_beside_own": outcome(lambda: (own.parent / "2").mkdir()),
                    "run_engine": outcome(lambda: run_from(own)),
                    "write_tmp": outcome(lambda: Path("/tmp/new").write_bytes(b"")),
                    "write_shared_memory": outcome(lambda: Path("/dev/shm/new").write_bytes(b"")),
                    "overwrite_graph": outcome(lambda: (folder / "1/model.onnx").write_bytes(b"")),
                    "remove_graph": outcome(lambda: (folder / "1/model.onnx").unlink()),
                    "truncate_graph": outcome(lambda: os.truncate(folder / "1/model.onnx", 0)),
                    "link_other_model": outcome(lambda: os.link(other, folder / "1/other")),
                    "rename_graph": outcome(lambda: os.rename(folder / "1/model.onnx", folder / "1/m")),
                    "signal_parent": outcome(lambda: os.kill(parent, signal.SIGTERM)),
                    "probe_parent": outcome(lambda: os.kill(parent, 0)),
                    "signal_group": outcome(lambda: os.kill(0, signal.SIGCONT)),
                    "signal_all": outcome(lambda: os.kill(-1, signal.SIGCONT)),
                    "pidfd": outcome(lambda: os.pidfd_open(parent)),
                    "ptrace_parent": outcome(lambda: libc("ptrace", 16, parent, 0, 0)),
                    "read_parent_memory": outcome(lambda: Path(f"/proc/{parent}/mem").read_bytes()),
                    "process_vm_readv": outcome(lambda: libc("process_vm_readv", parent, 0, 0, 0, 0, 0)),
                    "limits_of_parent": outcome(lambda: resource.prlimit(parent, resource.RLIMIT_NOFILE, (0, 0))),
                    "priority_of_parent": outcome(lambda: os.setpriority(os.PRIO_PROCESS, parent, 19)),
                    "priority_of_group": outcome(lambda: os.setpriority(os.PRIO_PGRP, 0, 19)),
                    "pin_parent": outcome(lambda: os.sched_setaffinity(parent, {0})),
                    "schedule_parent": outcome(lambda: os.sched_setscheduler(parent, os.SCHED_IDLE, os.sched_param(0))),
                    "shell": outcome(lambda: os.execv("/bin/sh", ["sh", "-c", "true"])),
                    "spawn": outcome(lambda: os.posix_spawn("/bin/sh", ["sh"], {})),
                    "fork": outcome(os.fork),
                    "namespace": outcome(lambda: libc("unshare", 0x10000000)),
                    "mount": outcome(lambda: libc("mount", b"none", b"/mnt", b"tmpfs", 0, None)),
                    "chroot": outcome(lambda: os.chroot(folder)),
                    "io_uring": outcome(lambda: call(425, 1, 0)),
                    "terminal_input": outcome(lambda: fcntl.ioctl(0, 0x5412, b"x")),
                    "signals_to_parent_by_file": outcome(lambda: fcntl.fcntl(0, 8, parent)),
                    "outlive_parent": outcome(lambda: libc("prctl", 1, 0, 0, 0, 0)),
                    "more_memory": outcome(lambda: bytearray(2 * bytes_max)),
                    "raise_memory": outcome(
                        lambda: resource.setrlimit(resource.RLIMIT_DATA, (2 * bytes_max, 2 * bytes_max))
                    ),
                    "become_another_user": outcome(lambda: os.setuid(12345)),
                },
                "done": {
                    "write_own": outcome(lambda: (own / "0").mkdir() or (own / "0/made.engine").write_bytes(b"e")),
                    "remove_own": outcome(lambda: (own / "0/made.engine").unlink()),
                    "read_graph": outcome((folder / "1/model.onnx").read_bytes),
                    "list_version": outcome(lambda: os.listdir(folder / "1")),
                    "memfd": outcome(grow),
                    "socketpair": outcome(pair),
                    "thread": outcome(thread),
                    "own_priority": outcome(
                        lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0))
                    ),
                    "own_affinity": outcome(lambda: os.sched_setaffinity(0, os.sched_getaffinity(0))),
                    "own_limits": outcome(lambda: resource.getrlimit(resource.RLIMIT_NOFILE)),
                    "signal_itself": outcome(lambda: os.kill(os.getpid(), signal.SIGURG)),
                    "dev_null": outcome(lambda: Path("/dev/null").write_bytes(b"x")),
                    "random": outcome(lambda: os.read(os.open("/dev/urandom", os.O_RDONLY), 1)),
                    "memory_facts": outcome(Path("/proc/meminfo").read_text),
                    "some_memory": outcome(lambda: bytearray(bytes_max // 8)),
                },
                "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
                "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
