"""The server's end of a worker's channel, in the fewest lines that can talk to a real worker process."""

import os
import socket
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from duly.models.repository import ModelVersion, Repository
from duly.models.spec import Signature, TensorSpec
from duly.worker import channel
from duly.worker.dtypes import DTYPES, TEXT, text_array
from duly.worker.slot_layout import layout
from duly.worker.text import read_texts, write_texts
from tests import lane as tests_lane

Array = npt.NDArray[Any]
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Encoded:
    format: str
    """Empty: it claims to be a tensor."""
    data: bytes
    shape: tuple[int, ...] = ()


@dataclass
class Outcome:
    """What became of one frame."""

    status: int
    reason: str = ""
    outputs: dict[str, Array] = field(default_factory=dict)
    guards: tuple[str, ...] = ()


class LoadFailed(Exception):
    """The worker's answer to LOAD; its message is the reason."""


class BatchFailed(Exception):
    """The worker's answer to a RUN; its message is the reason."""


def version_of(root: Path, name: str) -> ModelVersion:
    """The newest version of a model that the repository finds nothing wrong with."""
    versions, problems = Repository(root).scan()
    assert all(problem.harmless for problem in problems), problems
    return next(version for version in versions if version.name == name)


def load_body(version: ModelVersion, lane: str = "", threads: int = 1) -> dict[str, Any]:
    """What a LOAD message says of a version. `lane`: empty for that of the run of tests."""
    return {
        "model": version.key,
        "lane": lane or tests_lane.lane(),
        "folder": str(version.folder),
        "model_folder": str(version.model_folder),
        "config": version.config.model_dump(mode="json", by_alias=True),
        "threads": threads,
        "digests": dict(version.digests),
    }


def payload_of(array: Array) -> bytes:
    """The bytes of an array as clients send it."""
    return write_texts(array.ravel().tolist()) if array.dtype == TEXT else array.tobytes()


def output_of(spec: TensorSpec, data: bytes, shape: tuple[int, ...]) -> Array:
    if spec.is_text:
        return text_array(read_texts(data, prod(shape)), shape)
    return np.frombuffer(data, DTYPES[spec.datatype]).reshape(shape)


def answer_to_load(connection: socket.socket, files: dict[str, list[object]]) -> tuple[bytes, list[int]]:
    """Returns what the worker says when it has loaded, with its descriptors. Nothing of what it compiles is kept, and
    what it says of the files that it has read goes into `files`.
    """
    message, descriptors = channel.receive_text(connection)
    while message and channel.kind_of(message) in (channel.FILES, channel.PROGRESS, channel.ENGINE):
        if channel.kind_of(message) == channel.FILES:
            files |= channel.decode_text(message)[1]
        elif channel.kind_of(message) == channel.ENGINE:
            answer = {"folder": "", "there": False, "seconds": 0.0}
            channel.send_text(connection, channel.ENGINE, answer)
        message, descriptors = channel.receive_text(connection)
    return message, descriptors


class Worker:
    """A worker process with a loaded model, to be used in a `with`."""

    def __init__(
        self,
        version: ModelVersion,
        *,
        lane: str = "",
        threads: int = 1,
        module: str = "duly.worker.main",
        **limits: int,
    ) -> None:
        """`limits`: those of `SizeLimits` that are not as a server without settings has them. `module`: what runs."""
        self.ahead, copier = channel.socket_pair()
        """Where the worker hears of what it is to copy ahead."""
        self.socket, theirs = channel.socket_pair()
        self.socket.settimeout(TIMEOUT_S)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        body = load_body(version, lane, threads) | {"limits": limits}
        with copier:
            channel.send_text(self.socket, channel.LOAD, body, [copier.fileno()])
        self.files: dict[str, list[object]] = {}
        """What the worker said of the files that it has read: SHA-256 and bytes, by name."""
        message, descriptors = answer_to_load(self.socket, self.files)
        if not message or channel.kind_of(message) != channel.READY:
            reason = channel.decode_text(message)[1]["reason"] if message else "the worker died"
            self.process.wait(TIMEOUT_S)
            self.close()
            raise LoadFailed(reason)
        self.ready = channel.decode_text(message)[1]
        self.signature = Signature.model_validate(self.ready["signature"])
        batch_max = max(self.signature.batch_sizes)
        self._input_bases, _ = layout([spec.bytes_max for spec in self.signature.inputs], batch_max)
        self.region = channel.Region(descriptors[0], self.ready["input_bytes"], self.ready["output_bytes"])
        self.batch_id = 0

    def run(
        self,
        frames: Sequence[Sequence[Array | Encoded]],
        streams: Sequence[int] = (),
        resets: Sequence[bool] = (),
        slot: int = 0,
        variant: int = 0,
        last: Collection[int] = (),
    ) -> list[Outcome]:
        """Runs one batch; each frame is one value for each input. `last`: frames, by index, that are the last of their
        streams. Raises BatchFailed.
        """
        self.send_run(frames, streams, resets, slot, variant, last)
        return self.receive_done()

    def send_run(
        self,
        frames: Sequence[Sequence[Array | Encoded]],
        streams: Sequence[int] = (),
        resets: Sequence[bool] = (),
        slot: int = 0,
        variant: int = 0,
        last: Collection[int] = (),
        staged: Collection[int] = (),
        stage_number: int = 0,
    ) -> None:
        """`staged`, `stage_number`: as RUN says; the rest as in `run`."""
        self.batch_id += 1
        entries = []
        for index, values in enumerate(frames):
            refs: list[channel.TensorRef] = []
            for base, spec, value in zip(self._input_bases, self.signature.inputs, values, strict=True):
                offset = base + index * spec.bytes_max
                data = value.data if isinstance(value, Encoded) else payload_of(value)
                encoding = channel.ENCODINGS.index(value.format) if isinstance(value, Encoded) else 0
                shape = value.shape
                self.region.inputs[slot][offset : offset + len(data)] = data
                refs.append((offset, len(data), encoding, shape))
            stream = streams[index] if streams else index
            entries.append((stream, bool(resets and resets[index]), refs))
        run = channel.Run(self.batch_id, slot, entries, variant, frozenset(last), frozenset(staged), stage_number)
        self.socket.send(channel.encode_run(run))

    def warm(self, slot: int = 0, variant: int = 0) -> None:
        """Has the worker run a frame of its own. Raises BatchFailed."""
        self.batch_id += 1
        self.socket.send(channel.encode_warm(self.batch_id, slot, variant))
        assert self.receive_done() == []

    def receive_done(self) -> list[Outcome]:
        message = self.socket.recv(channel.MESSAGE_BYTES_MAX)
        assert message, "the worker died"
        if channel.kind_of(message) == channel.FAILED:
            batch_id, body = channel.decode_text(message)
            assert batch_id == self.batch_id
            raise BatchFailed(body["reason"])
        done = channel.decode_done(message, len(self.signature.outputs))
        assert done.batch_id == self.batch_id
        assert done.started_ns <= done.finished_ns
        area = self.region.outputs[done.slot]
        outcomes = []
        for index, (status, refs) in enumerate(done.frames):
            outputs = {
                spec.name: output_of(spec, bytes(area[offset : offset + length]), shape)
                for spec, (offset, length, _, shape) in zip(self.signature.outputs, refs, strict=status == channel.OK)
            }
            flags = (done.flags or {}).get(index, 0)
            guards = tuple(name for place, name in enumerate(self.signature.guards) if flags & 1 << place)
            outcomes.append(Outcome(status, done.reasons.get(index, ""), outputs, guards))
        return outcomes

    def forget(self, *stream_ids: int) -> None:
        self.socket.send(channel.encode_forget(list(stream_ids)))

    def close(self) -> None:
        """Closes this end, which is the worker's sign to end, and waits until it has."""
        self.socket.close()
        self.ahead.close()
        self.process.wait(TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self.region.close()
