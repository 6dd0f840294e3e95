"""A worker that runs no graph, and does what no worker should when the file `mode` in its version's folder says so.

It has a process, a socket and memory like any worker; y = x, of four floats. It is started as

    python -P hostile_worker.py FD PARENT_PID
"""

import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from duly.die_with_parent import die_with_parent
from duly.worker import channel
from duly.worker.slot_layout import layout

SPEC = {"datatype": "FP32", "shape": [4], "bytes_max": 16}
SIZES = [1, 2, 4]
_, SIZE = layout([16], max(SIZES))
MS = 1_000_000


def ready_body() -> dict[str, Any]:
    variant = {
        "samples_ns": {str(size): [20_000] for size in SIZES},
        "any_size": True,
        "providers": ["CPUExecutionProvider"],
        "warm_after_ns": 0,
    }
    signature = {
        "inputs": [{"name": "x", **SPEC}],
        "outputs": [{"name": "y", **SPEC}],
        "batch_sizes": SIZES,
        "any_size": True,
        "stateful": False,
    }
    return {"signature": signature, "variants": [variant], "input_bytes": SIZE, "output_bytes": SIZE, "notes": []}


# ---- while it loads: each changes what READY says, or says something else instead ----


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[socket.socket, int], None]:
    def say(connection: socket.socket, region_fd: int) -> None:
        body = ready_body()
        change(body)
        channel.send_text(connection, channel.READY, body, [region_fd])

    return say


def raw(message: bytes, *fds: int) -> Callable[[socket.socket, int], None]:
    return lambda connection, region_fd: (socket.send_fds(connection, [message], fds or [region_fd]), None)[1]


def open_memory(size: int) -> int:
    """Memory without seals, which its maker may still shrink."""
    fd = os.memfd_create("open", 0)
    os.ftruncate(fd, size)
    return fd


def with_region(fd: Callable[[], int]) -> Callable[[socket.socket, int], None]:
    return lambda connection, region_fd: channel.send_text(connection, channel.READY, ready_body(), [fd()])


def flood(connection: socket.socket, region_fd: int) -> None:
    text = channel.encode_text(channel.FILES, {"m/1/model.onnx": ["0" * 64, 9], "pad": ["", 0]})
    while True:
        socket.send_fds(connection, [text], [region_fd, region_fd])


def progress(**fields: object) -> Callable[[socket.socket, int], None]:
    body = {"doing": "compiles", "builds": True, "expected_s": 1.0} | fields
    return lambda connection, region_fd: channel.send_text(connection, channel.PROGRESS, body)


def progress_without_end(connection: socket.socket, region_fd: int) -> None:
    while True:
        progress()(connection, region_fd)


def compiles(connection: socket.socket, mode: Path) -> None:
    """Says that it compiles, until the file `compiled` is there."""
    progress(doing="made-up provider compiles model.onnx", expected_s=210.0)(connection, -1)
    while not (mode.parent / "compiled").exists():
        time.sleep(0.01)
    progress(doing="", builds=False, expected_s=0.0)(connection, -1)


def text_of(path: str, flags: int = os.O_RDWR) -> Callable[[socket.socket, int], None]:
    head = channel.encode_text(channel.READY, {})[:-2]

    def say(connection: socket.socket, region_fd: int) -> None:
        if not os.path.exists(path):
            os.mkfifo(path)
        socket.send_fds(connection, [head], [region_fd, os.open(path, flags)])

    return say


def times(*values: object) -> Callable[[dict[str, Any]], object]:
    return lambda body: body["variants"][0]["samples_ns"].update({"1": list(values)})


def signature(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda body: body["signature"].update(fields)


LOADS: dict[str, Callable[[socket.socket, int], None]] = {
    "progress that is none": progress(expected_s="long"),
    "progress of NaN": progress(expected_s=float("nan")),
    "progress of nothing": lambda connection, region_fd: channel.send_text(connection, channel.PROGRESS, {}),
    "progress without end": progress_without_end,
    "garbage": raw(b"\xff\xfe"),
    "nothing but a kind": raw(bytes([channel.READY])),
    "no JSON": raw(channel.encode_text(channel.READY, {})[:-2] + b"\x00\xff{"),
    "brackets without end": raw(channel.encode_text(channel.READY, {})[:-2] + b"[" * 150_000),
    "a list": raw(channel.encode_text(channel.READY, {})[:-2] + b"[1]"),
    "a batch": raw(channel.encode_done(channel.Done(1, 0, 0, 0, [], {}))),
    "no region": lambda connection, region_fd: channel.send_text(connection, channel.READY, ready_body()),
    "memory that may shrink": with_region(lambda: open_memory(2 * 8192)),
    "a region of another size": with_region(lambda: channel.Region.create(1 << 20, 1).fd),
    "a region that is a socket": with_region(lambda: channel.socket_pair()[0].detach()),
    "descriptors without end": lambda connection, region_fd: channel.send_text(
        connection, channel.READY, ready_body(), [region_fd] * 200
    ),
    "messages without end": flood,
    "a text in a device": text_of("/dev/zero"),
    "a text in a pipe": text_of(f"/tmp/duly-hostile-{os.getpid()}"),
    "a text that may change": lambda connection, region_fd: (
        socket.send_fds(connection, [channel.encode_text(channel.READY, {})[:-2]], [region_fd, open_memory(1000)]),
        None,
    )[1],
    "a text of 20 MiB": lambda connection, region_fd: channel.send_text(
        connection, channel.READY, ready_body() | {"pad": "x" * (20 << 20)}, [region_fd]
    ),
    "a region of no size": changed(lambda body: body.update(input_bytes=-4096)),
    "a region of any size": changed(lambda body: body.update(output_bytes=1 << 62)),
    "sizes that are words": changed(lambda body: body.update(input_bytes="much")),
    "no variants": changed(lambda body: body.update(variants=[])),
    "variants without end": changed(lambda body: body.update(variants=body["variants"] * 5000)),
    "a time of NaN": changed(times(float("nan"))),
    "a time below zero": changed(times(-5)),
    "a time that is true": changed(times(True)),
    "a time of a year": changed(times(365 * 86_400 * 1_000_000_000)),
    "a size without a time": changed(times()),
    "a batch of a million": changed(signature(batch_sizes=[1, 1_000_000])),
    "batches of none": changed(signature(batch_sizes=[])),
    "batches below zero": changed(signature(batch_sizes=[-1, 1, 2])),
    "no inputs": changed(signature(inputs=[])),
    "a tensor of less than nothing": changed(signature(outputs=[{"name": "y", **SPEC, "bytes_max": -16}])),
    "guards without end": changed(signature(guards=["blank"] * 17)),
    "a guard whose name is none": changed(signature(guards=['blank"} 1\n'])),
    "a lane that is warmed all the time": changed(lambda body: body["variants"][0].update(warm_after_ns=1)),
}
HANGS: dict[str, Callable[[socket.socket, int], None]] = {
    "it says nothing": lambda connection, region_fd: None,
    "it is stopped": lambda connection, region_fd: os.kill(os.getpid(), signal.SIGSTOP),
}
HARMLESS_LOADS: dict[str, Callable[[socket.socket, int], None]] = {
    "notes of any length": changed(
        lambda body: body.update(notes=["long " * 100_000, "\ud800", 7] * 2 + ["short"] * 5000)
    ),
    "half characters": changed(lambda body: body["variants"][0].update(providers=["\udfff"] * 1000)),
}

# ---- while it serves: each gets the answer that would be right, and the run ----


def answer(region: channel.Region, run: channel.Run) -> channel.Done:
    started_ns = time.monotonic_ns()
    frames: list[tuple[int, list[channel.TensorRef]]] = []
    for index, (_, _, refs) in enumerate(run.frames):
        offset, length, _, shape = refs[0]
        region.outputs[run.slot][16 * index : 16 * index + 16] = region.inputs[run.slot][offset : offset + length]
        frames.append((channel.OK, [(16 * index, 16, 0, shape)]))
    return channel.Done(run.batch_id, run.slot, started_ns, time.monotonic_ns(), frames, {})


def shrink(connection: socket.socket, region: channel.Region, done: channel.Done) -> None:
    """Takes the memory away that the server has mapped, as far as it can."""
    for change in (lambda: os.ftruncate(region.fd, 0), lambda: os.ftruncate(region.fd, 1 << 30)):
        try:
            change()
        except PermissionError:
            continue
        os._exit(3)
    connection.send(channel.encode_done(done))


def punch(connection: socket.socket, region: channel.Region, done: channel.Done) -> None:
    """Gives all pages of the region back: what the server reads there is zeros."""
    region._map.madvise(9)  # MADV_REMOVE
    connection.send(channel.encode_done(done))


def say_much(connection: socket.socket, region: channel.Region, done: channel.Done) -> None:
    message = channel.encode_done(done)
    for _ in range(1000):
        connection.send(message)


def send_fds(connection: socket.socket, region: channel.Region, done: channel.Done) -> None:
    for _ in range(50):
        socket.send_fds(connection, [channel.encode_done(done)], [region.fd] * 250)


def hang_up(connection: socket.socket, region: channel.Region, done: channel.Done) -> None:
    connection.close()
    time.sleep(3600)


def shut(how: int) -> Callable[[socket.socket, channel.Region, channel.Done], None]:
    def act(connection: socket.socket, region: channel.Region, done: channel.Done) -> None:
        connection.shutdown(how)
        time.sleep(3600)

    return act


def leave_a_child(connection: socket.socket, region: channel.Region, done: channel.Done) -> None:
    """Ends, but not the socket: a child holds it."""
    if os.fork() == 0:
        die_with_parent(int(sys.argv[2]), signal.SIGKILL)
        os.closerange(0, 3)
        time.sleep(5)
        os._exit(0)
    os._exit(0)


def die(signum: int) -> Callable[[socket.socket, channel.Region, channel.Done], None]:
    def act(connection: socket.socket, region: channel.Region, done: channel.Done) -> None:
        os.kill(os.getpid(), signum)

    return act


def long_text(connection: socket.socket, region: channel.Region, done: channel.Done) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUFFORCE if os.getuid() == 0 else socket.SO_SNDBUF, 1 << 22)
    connection.send(bytes(channel.encode_done(done)) + b"{" * 400_000)


def spin(connection: socket.socket, region: channel.Region, done: channel.Done) -> None:
    while True:
        pass


def _flagged(done: channel.Done, flags: bytes) -> bytes:
    """An answer that says that flags follow its frames, and these."""
    message = bytearray(channel.encode_done(done))
    message[4] |= 2
    return bytes(message) + flags


def say(message: Callable[[channel.Done], bytes | bytearray]) -> Callable[..., None]:
    return lambda connection, region, done: (connection.send(message(done)), None)[1]


def reason(text: str) -> Callable[..., None]:
    return say(lambda done: channel.encode_text(channel.FAILED, {"reason": text}, done.batch_id))


FATAL: dict[str, Callable[[socket.socket, channel.Region, channel.Done], None]] = {
    "an answer too long": long_text,
    "it hangs up and goes on": hang_up,
    "it hears no more": shut(socket.SHUT_RDWR),
    "it says no more": shut(socket.SHUT_WR),
    "it dies and leaves a child that holds its socket": leave_a_child,
    "SIGSEGV": die(signal.SIGSEGV),
    "SIGABRT": die(signal.SIGABRT),
    "SIGSTOP": die(signal.SIGSTOP),
    "a deadlock": lambda connection, region, done: time.sleep(3600),
    "it never comes to an end": spin,
    "an answer to a ping that nobody sent": say(lambda done: channel.encode_pong(1 << 60)),
    "READY again": say(lambda done: channel.encode_text(channel.READY, ready_body())),
    "half an answer": say(lambda done: channel.encode_done(done)[:-1]),
    "a guard that the model has not": say(lambda done: channel.encode_done(replace(done, flags={0: 1}))),
    "flags of frames that are not there": say(lambda done: _flagged(done, b"")),
    "flags that are all 0": say(lambda done: _flagged(done, bytes(2 * len(done.frames)))),
}
"""What ends the worker, whose batch is FAILED."""
FATAL_LATER: dict[str, Callable[[socket.socket, channel.Region, channel.Done], None]] = {
    "more answers than were asked for": say_much,
    "answers with descriptors": send_fds,
}
"""What ends the worker after it has answered as it should."""
FAILING: dict[str, Callable[[socket.socket, channel.Region, channel.Done], None]] = {
    "a reason without end": reason("so " * 60_000),
    "a reason of half characters": reason("\ud800\udfff"),
}
"""What fails the batch, and no more."""
HARMLESS: dict[str, Callable[[socket.socket, channel.Region, channel.Done], None]] = {
    "it takes the memory away": shrink,
    "it gives the memory back": punch,
}
POISON = 666.0


def dies_of_poison(connection: socket.socket, region: channel.Region, done: channel.Done) -> None:
    """Takes a while for each batch, so that the next one has several frames."""
    time.sleep(0.05)
    for index in range(len(done.frames)):
        if struct.unpack_from("<f", region.outputs[done.slot], 16 * index)[0] == POISON:
            os.kill(os.getpid(), signal.SIGSEGV)
    connection.send(channel.encode_done(done))


RUNS = FATAL | FATAL_LATER | FAILING | HARMLESS


def main() -> None:
    die_with_parent(int(sys.argv[2]))
    connection = socket.socket(fileno=int(sys.argv[1]))
    _, body = channel.decode_text(channel.receive_text(connection)[0])
    mode = Path(body["folder"]) / "mode"

    def now() -> str:
        return mode.read_text() if mode.exists() else ""

    channel.send_text(connection, channel.FILES, {f"{body['model']}/model.onnx": ["0" * 64, 9]})
    region = channel.Region.create(SIZE, SIZE)
    if now() in LOADS | HANGS:
        (LOADS | HANGS)[now()](connection, region.fd)
        time.sleep(3600)
    if now() == "compiles":
        compiles(connection, mode)
    HARMLESS_LOADS.get(now(), changed(lambda body: None))(connection, region.fd)
    if now() == "it dies at once":
        os.kill(os.getpid(), signal.SIGSEGV)
    while message := connection.recv(channel.MESSAGE_BYTES_MAX):
        if channel.kind_of(message) == channel.PING:
            connection.send(channel.encode_pong(channel.decode_ping(message)))
        elif channel.kind_of(message) == channel.RUN:
            done = answer(region, channel.decode_run(message, 1))
            act = dies_of_poison if now() == "poison" else RUNS.get(now())
            if act is None:
                connection.send(channel.encode_done(done))
            else:
                act(connection, region, done)


if __name__ == "__main__":
    main()
