"""Whether a lane truly runs a model: a worker, as the server starts them, loads and warms a graph of one node there.

The graph comes with a check sample, so that a device that computes something else is found out as well. ONNX Runtime
treats providers as wishes, and only the nodes of a session say where they run (`worker/providers`).
"""

import asyncio
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog

from duly.models.repository import Repository
from duly.models.sizes import SizeLimits
from duly.models.trust import Trust
from duly.runtime.worker_launch import start_worker
from duly.runtime.worker_load import WorkerError

TRY_SECONDS_MAX = 90.0
"""A lane that has not run the graph by then does not run; engines of TensorRT take some of that."""
_NAME = "doctor"
_FLOAT = 1  # TensorProto.DataType
_SIDE = 4


class Tried(NamedTuple):
    problem: str
    """Why it does not run; empty: it does."""
    providers: tuple[str, ...] = ()
    """What runs it."""


def try_lanes(asked: Sequence[tuple[str, str]], trust: Trust) -> list[Tried]:
    """Tries one lane after another. `asked`: each with the provider to ask for; empty: that of the lane. `trust`: what
    workers may do, as the server's settings say.
    """
    before = structlog.get_config()
    structlog.configure(processors=[_say_nothing])  # a worker's own lines are no answer
    try:
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(_try(asked, Path(folder), trust.model_copy(update={"manifests": "off"})))
    finally:
        structlog.configure(**before)


def _say_nothing(logger: object, method: str, event: object) -> str:
    raise structlog.DropEvent


async def _try(asked: Sequence[tuple[str, str]], folder: Path, trust: Trust) -> list[Tried]:
    tried = []
    for nth, (lane, provider) in enumerate(asked):
        root = folder / str(nth)
        lay_out(root, provider)
        (version,), _ = Repository(root).scan()
        try:
            worker = start_worker(
                version, lane, 1, SizeLimits(), lambda batch, result: None, lambda worker: None, trust=trust
            )
            try:
                ready = await worker.load.ready(TRY_SECONDS_MAX)
                tried.append(Tried("", ready.variants[0].providers))
            finally:
                await worker.stop()
        except WorkerError as error:
            text = str(error).removeprefix(f"{_NAME}/1/model.onnx: ").removeprefix(f"{_NAME}/model.toml: ")
            tried.append(Tried(text.removeprefix(f"lane {lane}: ").removeprefix("providers: ")))
    return tried


def lay_out(root: Path, provider: str = "") -> None:
    """Makes a repository of one model, which multiplies by a kernel of ones."""
    version = root / _NAME / "1"
    (version / "checks").mkdir(parents=True)
    (version / "model.onnx").write_bytes(graph())
    asked = f'providers = [{{ name = "{provider}" }}]\n' if provider else ""
    (root / _NAME / "model.toml").write_text(f"batch_sizes = [1]\nwarmup_runs = 1\n{asked}")
    x = np.arange(_SIDE * _SIDE, dtype=np.float32).reshape(1, _SIDE, _SIDE)
    y = np.array([[[x[0, row : row + 3, column : column + 3].sum() for column in range(2)] for row in range(2)]])
    sample: dict[str, Any] = {"input.x": x, "output.y": y.astype(np.float32)}
    np.savez(version / "checks/one.npz", **sample)


def graph() -> bytes:
    """Returns a graph of one convolution, as onnx.proto has it: what every accelerator is for."""
    kernel = _field(8, b"w") + b"".join(_number(1, extent) for extent in (1, 1, 3, 3)) + _number(2, _FLOAT)
    kernel += _field(9, struct.pack("<9f", *[1.0] * 9))
    node = _field(1, b"x") + _field(1, b"w") + _field(2, b"y") + _field(3, b"conv") + _field(4, b"Conv")
    body = _field(1, node) + _field(2, b"doctor") + _field(5, kernel)
    body += _field(11, _value(b"x", _SIDE)) + _field(12, _value(b"y", _SIDE - 2))
    return _number(1, 8) + _field(7, body) + _field(8, _field(1, b"") + _number(2, 17))


def _value(name: bytes, side: int) -> bytes:
    shape = b"".join(_field(1, _number(1, extent)) for extent in (1, 1, side, side))
    return _field(1, name) + _field(2, _field(1, _number(1, _FLOAT) + _field(2, shape)))


def _field(number: int, data: bytes) -> bytes:
    """A field of protobuf that holds bytes, of less than 16384."""
    length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
    return bytes([number << 3 | 2]) + length + data


def _number(number: int, value: int) -> bytes:
    """A field of protobuf that holds a number below 128."""
    return bytes([number << 3, value])
