"""A worker is a process that hosts all variants of one model version on one lane. The server starts it as

    python -P -m duly.worker.main FD PARENT_PID

where FD is the inherited descriptor of its end of the socket pair. It loads one model and then runs batches, one at a
time and all on this one thread, until it is asked to stop or the server is gone. `channel` has the messages.
"""

import contextlib
import gc
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from duly.die_with_parent import die_with_parent, leave_signals_to_server
from duly.realtime import memory
from duly.realtime.scheduling import WARNED_US
from duly.worker import channel, handed_state, shared_frames
from duly.worker.background import fits, in_background, step_back
from duly.worker.errors import BackendError, DeviceFull, DeviceLost, LoadError, LoadFull, RunError

if TYPE_CHECKING:
    from duly.models.digests import FileDigest
    from duly.worker.load_model import Loaded
    from duly.worker.version_files import Report

_Result = TypeVar("_Result")

_REASON_CHARS_MAX = 4000
_SLEEP_S = 1e-4
"""Less might be over before it has begun."""
_NO_MEMORY = "the worker may not have the memory that this batch takes"
_NAME_BYTES_MAX = 15  # linux/sched.h, TASK_COMM_LEN with its zero


def main(arguments: list[str]) -> int:
    descriptor, parent_pid = map(int, arguments)
    die_with_parent(parent_pid)
    leave_signals_to_server()
    with socket.socket(fileno=descriptor) as connection:
        try:
            return _serve(connection)
        except (BrokenPipeError, ConnectionResetError):
            return 0  # the server is gone


def _serve(connection: socket.socket) -> int:
    message, fds = channel.receive_text(connection)
    if not message or channel.kind_of(message) != channel.LOAD:
        return 0
    _, body = channel.decode_text(message)
    with contextlib.suppress(OSError):  # a name for `ps`, and no more
        Path("/proc/self/comm").write_text(f"duly {body['model']}"[:_NAME_BYTES_MAX])
    _join_group(body.get("group", ""))
    try:
        _take_processors(body.get("cpus", []))
        # What is to be loaded is imported before, and by a thread that is gone by then: the confinement binds the one
        # that there is, and those that it starts.
        apart = in_background if fits(body) else _here
        if body.get("reads"):
            step_back()  # for good, with all threads that it will have
        confine_for, load = apart(partial(_import, bool(body.get("reads"))))
        confine_for(body)
        loaded = apart(partial(_load, partial(load, body, partial(_report, connection), ToServer(connection))))
        if body.get("realtime"):
            _stay_in_time(body["model"])
    except (LoadError, BackendError) as error:
        said: dict[str, Any] = {"reason": str(error)[:_REASON_CHARS_MAX]}
        if isinstance(error, LoadFull):
            said["full"] = True
        connection.send(channel.encode_text(channel.LOAD_FAILED, said))
        return 1
    except (BrokenPipeError, ConnectionResetError):
        raise
    except MemoryError:
        reason = f"{body['model']}: its worker may not have the memory that loading it takes (worker_memory_bytes_max)"
        connection.send(channel.encode_text(channel.LOAD_FAILED, {"reason": reason, "full": True}))
        return 1
    except Exception as error:
        _print_error()
        reason = f"{body['model']}: the worker failed while loading it: {type(error).__name__}; see the server's log"
        connection.send(channel.encode_text(channel.LOAD_FAILED, {"reason": reason}))
        return 1
    ahead = [socket.socket(fileno=fd) for fd in fds]
    if loaded.copies is not None and ahead:
        Thread(target=loaded.copies.copy_ahead, args=(ahead.pop(),), daemon=True).start()
    for unused in ahead:
        unused.close()  # so that the server is told that nothing is copied ahead
    channel.send_text(connection, channel.READY, loaded.ready, [loaded.region.fd])
    buffer = memoryview(bytearray(channel.MESSAGE_BYTES_MAX))
    inputs = len(loaded.ready["signature"]["inputs"])
    shared = shared_frames.SharedFrames()
    awake_ns = 0
    while True:
        received, fd = channel.receive_into(connection, buffer, awake_ns)
        if not received:
            break
        message = bytes(buffer[:received])
        match channel.kind_of(message):
            case channel.RUN:
                run = channel.decode_run(message, inputs)
                if loaded.reader:
                    connection.send(_ended(run.batch_id, partial(loaded.reader.run, run)))
                    continue
                runs = partial(loaded.models[run.variant].run, run, shared.unread_frames(run.frames))
                connection.send(_ended(run.batch_id, runs, partial(loaded.size_that_runs, run)))
            case channel.WARM:
                batch_id, slot, variant = channel.decode_warm(message)
                connection.send(_ended(batch_id, partial(loaded.samples.warm, loaded.models[variant], batch_id, slot)))
            case channel.FORGET:
                stream_ids = channel.decode_forget(message)
                shared.forget(stream_ids)
                for model in loaded.models:
                    model.forget(stream_ids)
            case channel.SHARE:
                shared.share(shared_frames.decode_share(message), fd)
            case channel.GATHER:
                slot, pieces = shared_frames.decode_gather(message)
                shared.gather(loaded.region.inputs[slot], pieces)
            case channel.GIVE:
                number, places = handed_state.decode_places(message)
                there = loaded.models[0].give_states(places, fd)
                os.close(fd)  # before the server hears of it, which seals the memory
                connection.send(handed_state.encode_state(number, there))
            case channel.TAKE:
                loaded.models[0].take_states(handed_state.decode_places(message)[1], fd)
                os.close(fd)
            case channel.PING:
                connection.send(channel.encode_pong(channel.decode_ping(message)))
            case channel.AWAKE:
                awake_ns = channel.decode_awake(message)
            case channel.STOP:
                break
    return 0


class ToServer:
    """The way to the server while the model is loaded (`engines.Link`)."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._told = 0

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        channel.send_text(self._connection, channel.ENGINE, body)
        message, _ = channel.receive_text(self._connection)
        if not message or channel.kind_of(message) != channel.ENGINE:
            raise BrokenPipeError  # the server is gone, or wants it to stop
        return channel.decode_text(message)[1]

    def tell(self, doing: str, builds: bool = False, expected_s: float = 0.0) -> None:
        self._told += 1
        if self._told <= channel.PROGRESS_MAX:
            body = {"doing": doing, "builds": builds, "expected_s": expected_s}
            channel.send_text(self._connection, channel.PROGRESS, body)


def _join_group(folder: str) -> None:
    """Puts this process into the control group of that folder, before anything is read; empty: it has none. A worker
    that cannot goes on without, and the server says so.
    """
    if folder:
        with contextlib.suppress(OSError):
            descriptor = os.open(f"{folder}/cgroup.procs", os.O_WRONLY)
            os.write(descriptor, b"0")
            os.close(descriptor)


def _take_processors(numbers: list[int]) -> None:
    """Puts this process on the lane's processors, before it has other threads; none: it stays where it is."""
    if numbers:
        try:
            os.sched_setaffinity(0, numbers)
        except OSError as error:
            raise LoadError(f"its lane's processors cannot be had: {error.strerror} (cpus)") from None


def _stay_in_time(model: str) -> None:
    """Keeps the memory that there is now, and lives with the kernel's limit of time without sleep (RLIMIT_RTTIME): the
    kernel warns this process, which then sleeps for a moment and has all of its time anew. One that cannot is ended.
    """
    signal.signal(signal.SIGXCPU, _warned)
    try:
        memory.lock()
    except OSError as error:
        raise LoadError(f"{model}: its worker's memory cannot be locked: {error.strerror} (realtime)") from None


def _warned(signum: int, frame: object) -> None:
    time.sleep(_SLEEP_S)
    # With each warning the kernel puts the next one off by a second, in the end beyond the time at which it kills.
    hard_us = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    resource.setrlimit(resource.RLIMIT_RTTIME, (WARNED_US, hard_us))


def _here(work: Callable[[], _Result]) -> _Result:
    return work()


def _import(
    reads: bool,
) -> "tuple[Callable[[dict[str, Any]], None], Callable[[dict[str, Any], Report, ToServer], Loaded]]":
    # These imports are not at the top so that the server learns about a missing library, and as they take long.
    from duly.worker.confine import confine_for

    if reads:
        from duly.worker.read_apart import load_reader

        return confine_for, lambda body, report, server: load_reader(body, report)  # it compiles nothing
    from duly.worker.load_model import load

    return confine_for, load


def _load(load: "Callable[[], Loaded]") -> "Loaded":
    loaded = load()
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing on a batch's way makes cycles, and a collection would make it late
    return loaded


def _report(connection: socket.socket, digests: "dict[str, FileDigest]") -> None:
    body = {name: [digest.sha256, digest.size_bytes] for name, digest in digests.items()}
    channel.send_text(connection, channel.FILES, body)


def _print_error() -> None:
    with contextlib.suppress(OSError):  # nobody takes it from the pipe just now
        traceback.print_exc()


def _ended(
    batch_id: int, run: Callable[[], channel.Done], size_that_runs: Callable[[], int | None] = lambda: None
) -> bytes | bytearray:
    """Runs a batch and encodes its results, or why it failed. `size_that_runs` says which size does, where the batch
    failed for want of memory; None: that says nothing of others.
    """
    body: dict[str, Any] = {}
    try:
        try:
            return channel.encode_done(run())
        except (DeviceFull, MemoryError) as error:
            body["reason"] = str(error) if isinstance(error, DeviceFull) else _NO_MEMORY
        size = size_that_runs()
        if size is not None:
            body["size_max"] = size
    except DeviceLost as error:
        body = {"reason": str(error), "lost": True}
    except RunError as error:
        body = {"reason": str(error)}
    except Exception as error:
        _print_error()
        body = {"reason": f"the worker failed on this batch: {type(error).__name__}; see the server's log"}
    return channel.encode_text(channel.FAILED, body, batch_id)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
