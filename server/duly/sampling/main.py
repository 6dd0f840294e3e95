"""The process that writes samples. The server starts it as

    python -P -m duly.sampling.main FD PARENT_PID

where FD is the inherited descriptor of its end of a pair of stream sockets. It gets what processors and disks have left
over, reaches nothing but the folders that it writes to, and ends with the server. `wire` has the messages, `writing`
what it does with them.
"""

import contextlib
import fcntl
import gc
import io
import os
import resource
import select
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duly.die_with_parent import die_with_parent, leave_signals_to_server
from duly.sampling import wire
from duly.sampling.files import File, packed
from duly.sampling.limits import MEMORY_BYTES_MAX, WriterSettings
from duly.sampling.sample import Form, Sample
from duly.sampling.writing import FolderGone, Writing
from duly.worker import kernel, landlock, seccomp
from duly.worker.background import step_back

OPEN_FILES_MAX = 64
"""The process that writes has no more descriptors."""
READ_BYTES = 1 << 18

_IOPRIO_SET = {kernel.X86_64: 251, kernel.AARCH64: 30}
_IOPRIO_IDLE = 3 << 13  # linux/ioprio.h, for this process
_CAP_DAC_OVERRIDE = 1 << 1
_OOM_SCORE = 900


class Taken(Exception):
    """Another process writes into a folder, which the message names."""


def main(arguments: list[str]) -> int:
    descriptor, parent_pid = map(int, arguments)
    die_with_parent(parent_pid)
    leave_signals_to_server()
    with contextlib.suppress(OSError):  # a name for `ps`, and no more
        Path("/proc/self/comm").write_text("duly samples")
    step_back()
    with contextlib.suppress(OSError, KeyError):
        kernel.call(_IOPRIO_SET[kernel.MACHINE], 1, 0, _IOPRIO_IDLE)
    with socket.socket(fileno=descriptor) as connection:
        try:
            return _serve(connection)
        except (BrokenPipeError, ConnectionResetError):
            return 0  # the server is gone


def _serve(connection: socket.socket) -> int:
    messages = wire.Messages()
    first = None
    while first is None:
        if not (data := connection.recv(READ_BYTES)):
            return 0
        messages.feed(data)
        first = messages.next()

    def say(kind: int, body: dict[str, Any]) -> None:
        connection.sendall(wire.encoded(kind, body))

    living = first[1].pop("living")
    settings = WriterSettings.of(first[1])
    try:
        take(settings.folders)
        lacking = _confine(settings)
        writing = Writing(settings, say, time.monotonic(), time.time(), living)
    except (OSError, Taken) as error:
        problem = str(error) if isinstance(error, Taken) else error.strerror or "it cannot be read"
        say(wire.STATUS, {"written": {}, "dropped": {}, "problem": problem, "bytes": {}})
        return wire.EXIT_FOLDER
    say(wire.READY, {"lacking": lacking})
    gc.freeze()
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    try:
        while True:
            while (message := messages.next()) is not None:
                if not writing.take(time.monotonic(), time.time(), *message):
                    writing.tell()
                    return 0
            writing.look(time.monotonic(), time.time())
            if poll.poll(1000 * writing.due_in_s(time.monotonic()) + 1):
                if not (data := connection.recv(READ_BYTES)):
                    writing.take(time.monotonic(), time.time(), wire.STOP, {}, memoryview(b""))
                    return 0
                messages.feed(data)
    except FolderGone:
        return wire.EXIT_FOLDER


def take(folders: Sequence[str]) -> None:
    """Takes folders for this process until it ends: two that number their files alike would replace each other's.

    Raises Taken where another one has a folder, and OSError where it is not there. On a file system that knows no locks
    nothing is taken, and nothing raised.
    """
    taken: set[tuple[int, int]] = set()
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) in taken:  # it is named twice, which is one folder to take
            os.close(descriptor)
            continue
        taken.add((found.st_dev, found.st_ino))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Taken(
                f"another server keeps frames in {folder}: give each a folder of its own, or end the other one"
            ) from None
        except OSError:
            os.close(descriptor)


def _confine(settings: WriterSettings) -> list[str]:
    """Takes from this process for good whatever it does not need, as far as the kernel can. Returns what it cannot."""
    _warm_up()
    _lower(resource.RLIMIT_CORE, 0)  # what clients sent must not lie on a disk twice
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES_MAX)
    _lower(resource.RLIMIT_DATA, MEMORY_BYTES_MAX)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    if settings.sandbox == "off":
        return []
    lacking = []
    try:
        kernel.no_new_privileges()
        if kernel.MACHINE in (kernel.X86_64, kernel.AARCH64):
            kernel.keep_capabilities(kernel.capabilities() & _CAP_DAC_OVERRIDE)
        if landlock.abi():
            landlock.restrict_files((), [Path("/dev/null")], map(Path, settings.folders))
        else:
            lacking.append("no Landlock")
        if seccomp.available():
            seccomp.refuse_calls(seccomp.Allowed())
        else:
            lacking.append("no filter of system calls")
    except OSError as error:
        lacking.append(f"the kernel refuses it: {error.strerror}")
    return lacking


def _warm_up() -> None:
    """Has everything imported that is needed later, when no library can be reached any more."""
    form = Form("m", "1", {"input.x": "STRING", "input.y": "FP32"}, {})
    arrays = {"input.x": np.array("x"), "input.y": np.zeros(1, np.float32)}
    sample = Sample(form, "", "s", 0, 0, 0, "", "", arrays)
    file = File(io.BytesIO(packed([sample, sample])))
    assert len(file.samples()) == 2
    file.close()


def _lower(limit: int, value: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(limit)[1]
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lowest, lowest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
