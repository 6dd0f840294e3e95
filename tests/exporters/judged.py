"""What a server does with an exported model: it answers as the tool does, it refuses by words, or it is wrong."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duly_client import Client, Status
from tests.exporters.zoo import Exported, Tensors

STREAMS = 4
BUDGET_MS = 60_000
"""So long that no frame is late, however slow the machine is."""
ROUNDS_MAX = 20
"""So often the frames are sent until one of them shared a batch."""


@dataclass(frozen=True)
class Verdict:
    right: bool
    words: str = ""
    """Why it was refused, or what differs; empty where the answers are right."""
    refused: bool = False
    batch_max: int = 0
    """The largest batch that a frame ran in."""


def tolerance(exported: Exported, expected: NDArray[np.generic]) -> float:
    """How far an answer may be from the tool's: runtimes add in different orders, and 8 and 16 bits round coarsely."""
    if not np.issubdtype(expected.dtype, np.inexact):
        return 0
    coarse = exported.tool == "onnxruntime" or expected.dtype == np.float16
    return (0.02 if coarse else 1e-4) * max(1.0, float(np.abs(expected).max(initial=0)))


def differences(exported: Exported, given: Tensors, expected: Tensors) -> Iterable[str]:
    """What differs between the answer and the tool's. Outputs that the tool's answers do not have are passed over."""
    for name, value in expected.items():
        if name not in given:
            yield f"no output '{name}', but {', '.join(given)}"
            continue
        got = given[name]
        if got.dtype != value.dtype:
            yield f"'{name}' is {got.dtype}, not {value.dtype}"
        elif got.shape != value.shape:
            yield f"'{name}' has shape {list(got.shape)}, not {list(value.shape)}"
        elif not np.allclose(got, value, rtol=0, atol=tolerance(exported, value)):
            yield f"'{name}' is {got.ravel()[:4]}, not {value.ravel()[:4]}"


async def judge(client: Client, exported: Exported, model: str, batches: bool) -> Verdict:
    """Streams the frames of `exported` to `model` from several streams at once. With `batches`, until some shared one.

    Each stream begins with another frame, so that different frames meet in a batch.
    """
    batch_max = 0
    for _ in range(ROUNDS_MAX):
        turns = [exported.frames[start:] + exported.frames[:start] for start in range(STREAMS)]
        answered = await asyncio.gather(*(_stream(client, exported, model, turn) for turn in turns))
        for verdict in answered:
            if not verdict.right:
                return verdict
        batch_max = max(batch_max, *(verdict.batch_max for verdict in answered))
        if batch_max > 1 or not batches:
            break
    return Verdict(True, batch_max=batch_max)


async def _stream(client: Client, exported: Exported, model: str, frames: list[tuple[Tensors, Tensors]]) -> Verdict:
    async with client.stream(model, budget_ms=BUDGET_MS, backlog="ALL") as stream:
        for inputs, _ in frames:
            try:
                await stream.send(inputs)
            except ValueError as error:
                return Verdict(False, f"frames are refused: {error}", refused=True)
        await stream.finish()
        batch_max, index = 0, 0
        async for outcome in stream:
            if outcome.status == Status.INVALID:
                return Verdict(False, f"frames are INVALID: {outcome.reason}", refused=True)
            if outcome.status != Status.ON_TIME:
                return Verdict(False, f"{outcome.status.name}: {outcome.reason}")
            wrong = list(differences(exported, outcome.outputs, frames[index][1]))
            if wrong:
                return Verdict(False, f"in a batch of {outcome.batch_size}: {'; '.join(wrong)}")
            batch_max, index = max(batch_max, outcome.batch_size), index + 1
    return Verdict(True, batch_max=batch_max)
