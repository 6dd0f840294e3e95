"""The wire between the serving process and a worker: one SEQPACKET socket pair and one shared memory region.

The one file that both sides import. Tensor bytes lie in the region; the socket carries small messages of a fixed layout
that say where. Text that is not on a frame's way (load, ready, reasons) is JSON. Nothing is ever unpickled.

The region is an anonymous memfd that the worker makes once it knows the model's sizes, and passes over the socket with
READY: it has no name, so nothing is left behind however either side ends. It holds `slots` equal slots, each an input
area followed by an output area. A lane never has two batches in flight; the second slot lets the server read the
outputs of one batch while the next one runs. Its pages are no memory until they are written to, and the server has the
system give it those that it writes to before it does: one that is not there then would end it (SIGBUS).

A worker runs native code on graphs that somebody else made, so the server takes nothing from it on trust. Memory that
shrinks under a mapping kills who reads it (SIGBUS), so the region's size is sealed by who makes it, and the server maps
no memory without these seals, which nobody can take off again. Room that is not used can still be given back: a seal on
shrinking does not keep pages from being freed. Descriptors are received with READY's messages alone, and more bytes or
descriptors than a message may have are an error, as is a text that could change or block while it is read.

    server -> worker   LOAD (json)   RUN   WARM   FORGET (stream ids)   PING   STOP   AWAKE
                       GIVE (memfd)   TAKE (memfd)   SHARE (memfd)   GATHER   ENGINE (json)
                       STAGE, on a socket of its own that comes with LOAD
    worker -> server   FILES, PROGRESS, ENGINE (json), any number, then READY (json + memfd) | LOAD_FAILED (json)
                       DONE   FAILED (json)   PONG   STATE

An ENGINE of the worker's asks for what a provider has compiled before, and one of the server's answers it
(`worker/engines`). GIVE, STATE and TAKE are explained in `worker/handed_state`, SHARE and GATHER in
`worker/shared_frames`, and STAGE in `worker/input_copies`.
"""

import contextlib
import fcntl
import json
import mmap
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from duly.realtime import memory

LOAD, RUN, FORGET, STOP, READY, LOAD_FAILED, DONE, FAILED = range(1, 9)
WARM, FILES, PING, PONG, GIVE, STATE, TAKE, AWAKE, SHARE, GATHER, STAGE = range(9, 20)
ENGINE, PROGRESS = 30, 31

OK, INVALID, FRAME_FAILED = range(3)
"""How one frame of a DONE batch fared."""

MESSAGE_BYTES_MAX = 200_000
"""A batch has only so many frames as fit into one message. Linux refuses SEQPACKET messages above the socket's send
buffer; 212,992 is the kernel's default `wmem_max`."""
AWAKE_NS_MAX = 1_000_000
"""A worker that stays awake looks for its next message for no longer than this, then it sleeps until one comes."""
PROGRESS_MAX = 10_000
"""A worker says no more often what it does while it loads a model: two variants of 256 sizes take 520 times."""
TEXT_BYTES_MAX = 64 << 20
"""LOAD and READY may be longer than a message, as a model may have thousands of inputs with long names."""
_SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_TEXT_SEALS = _SIZE_SEALS | fcntl.F_SEAL_WRITE
_FD_SPACE = socket.CMSG_LEN(struct.calcsize("i"))
_FDS_MAX = 2
"""READY comes with the region's descriptor, and with that of its text where it is long."""
DIMS_MAX = 8
"""Dimensions of a tensor without its batch dimension; a model with more is not loaded. NumPy allows 64; no real
sensor has more than 5."""
SLOTS = 2
KEPT_BYTES_MAX = 64 << 20
"""An area of a slot that holds more than this of what is of open size is trimmed before its next batch."""
SENT_ENCODINGS = ("JPEG", "PNG", "PCM_S16LE", "MJPEG", "H264", "HEVC")
"""Those in which clients may send."""
ENCODINGS = ("", *SENT_ENCODINGS, "ROW")
"""An encoding's number on the channel is its index here; 0 stands for a plain tensor. ROW is none of a client's: it
stands for what `worker/read_apart` has made of another one."""
ROW = ENCODINGS.index("ROW")
ROW_HEAD = struct.Struct("<4d5dQ?7x")
"""What stands before a row that was read elsewhere: where the picture lies in it (`ops.operation.Placement`), and what
guards are to know of it (`look.Look`)."""

_HEAD = struct.Struct("<BBHBxxxQ")  # kind, slot, frames, variant, batch id
_FRAME = struct.Struct("<QB7x")  # stream id, flags | in DONE: ns that reading took, status
_TENSOR = struct.Struct(f"<QIBBxx{DIMS_MAX}i")  # offset in the slot, bytes, encoding, dimensions, extents
_TENSOR_VALUES = 4 + DIMS_MAX
_DESCRIBED = struct.Struct(f"<BBxx{DIMS_MAX}i")
_FRAME_OF_ONE = struct.Struct(f"{_FRAME.format}QI{_DESCRIBED.size}s")
"""A frame with one tensor, whose description is left as it is."""
_STATUS_AT = 8  # where the status lies in a frame
_TIMES = struct.Struct("<qq")  # started, finished: CLOCK_MONOTONIC ns, the same clock in both processes
_ID = struct.Struct("<Q")
_PAD = tuple((0,) * (DIMS_MAX - n) for n in range(DIMS_MAX + 1))

_FLAGS = struct.Struct("<H")
_RESET, _LAST, _STAGED = 1, 2, 4
"""What is said of a frame beside its stream."""
_HOLLOW, _FLAGGED = 1, 2
"""What is said of a DONE batch: `Done.hollow`, and whether the flags of its frames follow them."""
NONE_LAST: frozenset[int] = frozenset()
NONE_STAGED: frozenset[int] = frozenset()

TensorRef = tuple[int, int, int, tuple[int, ...]]
"""(offset within the slot's area in bytes, length in bytes, index into ENCODINGS, shape)."""


@dataclass(slots=True)
class Run:
    """One batch to run. Each frame is (stream id, whether its state is reset first, one TensorRef for each input)."""

    batch_id: int
    slot: int
    frames: list[tuple[int, bool, list[TensorRef]]]
    variant: int = 0
    """The index of the variant; 0 is the most accurate one."""
    last: frozenset[int] = NONE_LAST
    """The frames, by index, that are the last of their streams."""
    staged: frozenset[int] = NONE_STAGED
    """The frames, by index, whose rows were told of by STAGE, and have not changed since."""
    stage_number: int = 0
    """The number of the last STAGE of this slot, where any are."""


@dataclass(slots=True)
class Done:
    """One batch that ran. Each frame is (OK | INVALID | FRAME_FAILED, one TensorRef for each output if it is OK)."""

    batch_id: int
    slot: int
    started_ns: int
    finished_ns: int
    frames: list[tuple[int, list[TensorRef]]]
    reasons: dict[int, str]
    """Why frames are not OK, by their index in the batch."""
    read_ns: list[int] = field(default_factory=list)
    """How long reading each frame took, where pictures are decoded; else, and where it is too short, zeros."""
    hollow: bool = False
    """Whether the worker gives nothing but outputs that are not finite, even for a frame of its own."""
    flags: dict[int, int] | None = None
    """What guards found on frames, by their index in the batch: a bit for each guard, and never 0. None: nothing."""


def frames_of_message(tensors: int) -> int:
    """How many frames of `tensors` tensors each a RUN or DONE message without reasons has room for."""
    return (MESSAGE_BYTES_MAX - _HEAD.size - _TIMES.size) // (_FRAME.size + _FLAGS.size + tensors * _TENSOR.size)


def tensors_of_message() -> int:
    """How many tensors a frame may have, for a batch of one."""
    return (MESSAGE_BYTES_MAX - _HEAD.size - _TIMES.size - _FRAME.size - _FLAGS.size) // _TENSOR.size


@lru_cache(maxsize=256)
def _frame(tensors: int) -> struct.Struct:
    """A frame and so many tensors, which are packed at once, as one by one takes several times as long."""
    return struct.Struct("<" + _FRAME.format[1:] + tensors * _TENSOR.format[1:])


@lru_cache(maxsize=256)
def _described(encoding: int, shape: tuple[int, ...]) -> bytes:
    """What is said of a tensor but where it lies, which is the same for most frames of a model."""
    return _DESCRIBED.pack(encoding, len(shape), *shape, *_PAD[len(shape)])


def _packed(first: int, second: int, tensors: Sequence[TensorRef]) -> bytes:
    if len(tensors) == 1:  # as nearly always
        ((offset, length, encoding, shape),) = tensors
        return _FRAME_OF_ONE.pack(first, second, offset, length, _described(encoding, shape))
    values: list[int] = [first, second]
    for offset, length, encoding, shape in tensors:
        dims = len(shape)
        values += (offset, length, encoding, dims, *shape, *_PAD[dims])
    return _frame(len(tensors)).pack(*values)


def _tensors(values: tuple[int, ...]) -> list[TensorRef]:
    """The tensors among the values of a frame. Raises ValueError."""
    if len(values) == 2 + _TENSOR_VALUES:  # as nearly always
        _, _, offset, length, encoding, dims, *_ = values
        if dims <= DIMS_MAX:
            return [(offset, length, encoding, values[6 : 6 + dims])]
    tensors: list[TensorRef] = []
    for at in range(2, len(values), _TENSOR_VALUES):
        offset, length, encoding, dims = values[at : at + 4]
        if dims > DIMS_MAX:
            raise ValueError(f"a tensor has {dims} dimensions")
        tensors.append((offset, length, encoding, values[at + 4 : at + 4 + dims]))
    return tensors


def encode_run(run: Run) -> bytes:
    out = [_HEAD.pack(RUN, run.slot, len(run.frames), run.variant, run.batch_id)]
    for index, (stream_id, reset, tensors) in enumerate(run.frames):
        flags = _LAST | reset if index in run.last else int(reset)
        out.append(_packed(stream_id, flags | _STAGED if index in run.staged else flags, tensors))
    if run.staged:
        out.append(_ID.pack(run.stage_number))
    return b"".join(out)


def decode_run(message: bytes, inputs: int) -> Run:
    _, slot, count, variant, batch_id = _HEAD.unpack_from(message)
    at, frame = _HEAD.size, _frame(inputs)
    frames, last, staged = [], [], []
    for index in range(count):
        values = frame.unpack_from(message, at)
        at += frame.size
        frames.append((values[0], bool(values[1] & _RESET), _tensors(values)))
        if values[1] & _LAST:
            last.append(index)
        if values[1] & _STAGED:
            staged.append(index)
    run = Run(batch_id, slot, frames, variant, frozenset(last) if last else NONE_LAST)
    if staged:
        run.staged, run.stage_number = frozenset(staged), _ID.unpack_from(message, at)[0]
    return run


def encode_stage(number: int, slot: int, rows: Sequence[int]) -> bytes:
    """Tells that rows of a slot hold what a batch may need that has not begun. `rows`: in rising order."""
    return _HEAD.pack(STAGE, slot, len(rows), 0, number) + struct.pack(f"<{len(rows)}H", *rows)


def decode_stage(message: bytes) -> tuple[int, int, list[int]]:
    """Returns (number, slot, rows)."""
    _, slot, count, _, number = _HEAD.unpack_from(message)
    return number, slot, list(struct.unpack_from(f"<{count}H", message, _HEAD.size))


def encode_warm(batch_id: int, slot: int, variant: int) -> bytes:
    """Asks for one run of a frame of the worker's own, whose outputs nobody wants. A DONE without frames answers it."""
    return _HEAD.pack(WARM, slot, 0, variant, batch_id)


def decode_warm(message: bytes) -> tuple[int, int, int]:
    """Returns (batch id, slot, variant)."""
    _, slot, _, variant, batch_id = _HEAD.unpack_from(message)
    return batch_id, slot, variant


def encode_done(done: Done) -> bytes:
    said = done.hollow | _FLAGGED if done.flags else done.hollow
    out = [_HEAD.pack(DONE, done.slot, len(done.frames), said, done.batch_id)]
    out.append(_TIMES.pack(done.started_ns, done.finished_ns))
    read_ns = done.read_ns
    for index, (status, tensors) in enumerate(done.frames):
        out.append(_packed(read_ns[index] if index < len(read_ns) else 0, status, tensors))
    if done.flags:
        flags = done.flags
        out.append(b"".join([_FLAGS.pack(flags.get(index, 0)) for index in range(len(done.frames))]))
    if done.reasons:
        room = (MESSAGE_BYTES_MAX - sum(map(len, out))) // len(done.reasons) // 2 - 16
        out.append(json.dumps({str(i): reason[: max(room, 0)] for i, reason in done.reasons.items()}).encode())
    return b"".join(out)


def decode_done(message: bytes, outputs: int) -> Done:
    """Raises ValueError unless the message is a whole DONE with nothing behind it."""
    try:
        _, slot, count, said, batch_id = _HEAD.unpack_from(message)
        at = _HEAD.size
        started_ns, finished_ns = _TIMES.unpack_from(message, at)
        at += _TIMES.size
        whole = _frame(outputs)
        frames = []
        read_ns = []
        for _ in range(count):
            status = message[at + _STATUS_AT]
            if status == OK:
                frame = whole
            elif status in (INVALID, FRAME_FAILED):
                frame = _FRAME
            else:
                raise ValueError(f"a frame has status {status}")
            values = frame.unpack_from(message, at)
            at += frame.size
            read_ns.append(values[0])
            frames.append((status, _tensors(values)))
        flags: dict[int, int] | None = None
        if said & _FLAGGED:
            flags = _flags(message, at, count)
            at += count * _FLAGS.size
        reasons = _reasons(message[at:]) if at < len(message) else {}
        return Done(batch_id, slot, started_ns, finished_ns, frames, reasons, read_ns, bool(said & _HOLLOW), flags)
    except (struct.error, IndexError) as error:
        raise ValueError(str(error)) from None


def _flags(message: bytes, at: int, count: int) -> dict[int, int]:
    """The flags of `count` frames, which lie from `at` on. Raises ValueError where none has any, and struct.error."""
    flags: dict[int, int] = {}
    for index in range(count):
        (found,) = _FLAGS.unpack_from(message, at + index * _FLAGS.size)
        if found:
            flags[index] = found
    if not flags:
        raise ValueError("the frames have no flags, though it says so")
    return flags


def _reasons(text: bytes) -> dict[int, str]:
    reasons = json.loads(text)
    if not isinstance(reasons, dict) or not reasons:
        raise ValueError("the reasons are not an object with entries")
    return {int(index): str(reason) for index, reason in reasons.items()}


def encode_forget(stream_ids: list[int]) -> bytes:
    """Tells the worker that the states of these streams are no longer needed."""
    return _HEAD.pack(FORGET, 0, len(stream_ids), 0, 0) + b"".join(map(_ID.pack, stream_ids))


def decode_forget(message: bytes) -> list[int]:
    return [stream_id for (stream_id,) in _ID.iter_unpack(message[_HEAD.size :])]


def encode_ping(number: int) -> bytes:
    """Asks an idle worker whether it still listens."""
    return _HEAD.pack(PING, 0, 0, 0, number)


def encode_pong(number: int) -> bytes:
    return _HEAD.pack(PONG, 0, 0, 0, number)


def decode_ping(message: bytes) -> int:
    """Returns its number, which the answer repeats."""
    number: int = _HEAD.unpack_from(message)[4]
    return number


def encode_awake(ns: int) -> bytes:
    """Tells the worker to look for so long for its next message before it sleeps, now and after all that come."""
    return _HEAD.pack(AWAKE, 0, 0, 0, ns)


def decode_awake(message: bytes) -> int:
    """Returns for how long to look, in ns."""
    ns: int = _HEAD.unpack_from(message)[4]
    return min(ns, AWAKE_NS_MAX)


def encode_text(kind: int, body: dict[str, Any], batch_id: int = 0) -> bytes:
    """Encodes a message that is not on a frame's way: LOAD, FILES {name: [SHA-256, bytes]}, PROGRESS {"doing",
    "builds", "expected_s"}, ENGINE, READY, LOAD_FAILED, FAILED {"reason"}, STOP {}. FAILED may have "lost": true, where
    the device is, or "size_max": the largest batch of that variant for which there is memory. LOAD_FAILED may have
    "full": true, where there is not enough memory.
    """
    return _HEAD.pack(kind, 0, 0, 0, batch_id) + json.dumps(body).encode()


def decode_text(message: bytes) -> tuple[int, dict[str, Any]]:
    """Returns (batch id, body). Raises ValueError where the message has no such layout."""
    if len(message) < _HEAD.size:
        raise ValueError(f"the message has {len(message)} bytes")
    body = json.loads(message[_HEAD.size :])
    if not isinstance(body, dict):
        raise ValueError("the body is not an object")
    return _HEAD.unpack_from(message)[4], body


def send_text(connection: socket.socket, kind: int, body: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Sends LOAD or READY with descriptors. A text that is too long for a message goes in a file of its own, whose
    descriptor is the last one. Raises OSError.
    """
    message = encode_text(kind, body)
    if len(message) <= MESSAGE_BYTES_MAX:
        socket.send_fds(connection, [message], fds)
        return
    with os.fdopen(os.memfd_create("duly text", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as file:
        file.write(message[_HEAD.size :])
        file.flush()
        fcntl.fcntl(file.fileno(), fcntl.F_ADD_SEALS, _TEXT_SEALS)
        socket.send_fds(connection, [message[: _HEAD.size]], [*fds, file.fileno()])


def receive_text(connection: socket.socket, text_bytes_max: int = TEXT_BYTES_MAX) -> tuple[bytes, list[int]]:
    """Receives what `send_text` sent: (message, descriptors), of which the caller takes ownership.

    Raises OSError, and ValueError where it is no such message: too long, with too many descriptors, or with a text that
    is no sealed memory. No descriptor is left open then.
    """
    message, fds, flags, _ = socket.recv_fds(connection, MESSAGE_BYTES_MAX, _FDS_MAX, socket.MSG_CMSG_CLOEXEC)
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError(f"a message has more than {MESSAGE_BYTES_MAX:,} bytes or {_FDS_MAX} descriptors")
        if len(message) == _HEAD.size and fds:
            fd = fds.pop()
            try:
                message += _sealed_text(fd, text_bytes_max)
            finally:
                os.close(fd)
    except BaseException:
        close_all(fds)
        raise
    return message, fds


def receive_into(connection: socket.socket, buffer: memoryview, awake_ns: int = 0) -> tuple[int, int]:
    """Receives a message of the server's into the buffer. Returns its length, and the descriptor that came with it, of
    which the caller takes ownership; -1: none did. Raises OSError. `awake_ns`: for so long it looks for one again and
    again, as to wake up would take longer; then it sleeps until one comes.
    """
    until_ns = time.monotonic_ns() + awake_ns if awake_ns else 0
    while until_ns and time.monotonic_ns() < until_ns:
        with contextlib.suppress(BlockingIOError):
            return _received(connection, buffer, socket.MSG_DONTWAIT)
        os.sched_yield()  # the server may have been put on this very processor
    return _received(connection, buffer, 0)


def _received(connection: socket.socket, buffer: memoryview, flags: int) -> tuple[int, int]:
    length, came, _, _ = connection.recvmsg_into([buffer], _FD_SPACE, socket.MSG_CMSG_CLOEXEC | flags)
    return length, struct.unpack("i", came[0][2])[0] if came else -1


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _sealed_text(fd: int, bytes_max: int) -> bytes:
    _check_seals(fd, _TEXT_SEALS, "a text")
    size = os.fstat(fd).st_size
    if size > bytes_max:
        raise ValueError(f"a text of {size:,} bytes, at most {bytes_max:,} are read")
    return os.pread(fd, size, 0)


def _check_seals(fd: int, seals: int, what: str) -> None:
    """Raises ValueError unless `fd` is memory that has these seals. Files and pipes, which may block, never have."""
    try:
        found = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        found = 0
    if found & seals != seals:
        raise ValueError(f"{what} lies in memory that is not sealed")


def kind_of(message: bytes) -> int:
    return message[0]


class Region:
    """Shared memory of one worker: SLOTS x (input area, output area), page-aligned."""

    def __init__(self, fd: int, input_bytes: int, output_bytes: int) -> None:
        """Maps `fd`, of which it takes ownership. Sizes are those of one slot's areas.

        Raises ValueError where it is not memory of just that size which can neither shrink nor grow, and OSError where
        the system refuses to map it. `fd` is left to the caller then.
        """
        self.input_bytes = _pages(input_bytes)
        self.output_bytes = _pages(output_bytes)
        size = SLOTS * (self.input_bytes + self.output_bytes)
        _check_seals(fd, _SIZE_SEALS, "a region")
        if os.fstat(fd).st_size != size:
            raise ValueError(f"a region of {os.fstat(fd).st_size:,} bytes, {size:,} are needed")
        self._map = mmap.mmap(fd, size)
        self.fd = fd
        whole = memoryview(self._map)
        step = self.input_bytes + self.output_bytes
        self.inputs = [whole[s * step : s * step + self.input_bytes] for s in range(SLOTS)]
        self.outputs = [whole[s * step + self.input_bytes : (s + 1) * step] for s in range(SLOTS)]
        whole.release()
        self.filled = {(slot, outputs): 0 for slot in range(SLOTS) for outputs in (False, True)}
        """For each slot and area (outputs or inputs), the bytes of open size that this side has written there since the
        area was trimmed."""
        self._reserved: dict[int, int] = {}
        """How many bytes of inputs have been there for certain since the areas were trimmed, by where they begin."""

    def reserve(self, slot: int, offset: int, size_bytes: int) -> None:
        """Has the system give the memory of an input's place, unless it has. Raises OSError where there is none."""
        start = slot * (self.input_bytes + self.output_bytes) + offset
        if size_bytes > self._reserved.get(start, 0):
            os.posix_fallocate(self.fd, start, size_bytes)
            self._reserved[start] = size_bytes

    def trim(self, slot: int, outputs: bool) -> None:
        """Gives the memory of one area back to the system, if the slot's last batches have left more than it may keep.
        What lies there is zeros from then on. The slot must be free.
        """
        if self.filled[slot, outputs] > KEPT_BYTES_MAX:
            self.filled[slot, outputs] = 0
            self._reserved.clear()
            start = slot * (self.input_bytes + self.output_bytes) + (self.input_bytes if outputs else 0)
            with contextlib.suppress(OSError):  # not every system can; the region then grows up to its size
                memory.give_back(self.fd, start, self.output_bytes if outputs else self.input_bytes)

    @classmethod
    def create(cls, input_bytes: int, output_bytes: int) -> "Region":
        """Makes a region whose size nobody can change. Raises OSError where the system has no room for it."""
        fd = os.memfd_create("duly", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, SLOTS * (_pages(input_bytes) + _pages(output_bytes)))
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SIZE_SEALS)
            return cls(fd, input_bytes, output_bytes)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Gives the memory back once the last view of it is gone."""
        for view in self.inputs + self.outputs:
            view.release()
        self._map.close()
        os.close(self.fd)


def _pages(size: int) -> int:
    return -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE


def socket_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
