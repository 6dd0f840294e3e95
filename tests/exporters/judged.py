"""What a server makes of exported models: it answers as the tool does, it refuses by words, or it is wrong."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from structlog.testing import capture_logs

from duly.v1 import model_pb2
from duly_client import Client, Status
from tests.e2e.serving import serving
from tests.exporters.zoo import Exported, Tensors

STREAMS = 4
BUDGET_MS = 60_000
"""So long that no frame is late, however slow the machine is."""
ROUNDS_MAX = 50
"""So often the frames are sent until some of them shared a batch."""
SHORT = "warmup_runs = 3\n"
STATED = "-stated"
"""What the name of a model ends in that has the model.toml of the zoo beside it."""


@dataclass(frozen=True)
class Verdict:
    """What became of one model, bare or with its model.toml."""

    wrong: str = ""
    """What is wrong; empty: it is served right, or refused."""
    refused: str = ""
    """The words by which the model or its frames were refused."""
    notes: tuple[str, ...] = ()
    """What the server says although it serves the model."""
    batch_sizes: tuple[int, ...] = ()
    """The sizes of batches that the server plans for."""

    @property
    def served(self) -> bool:
        return not self.wrong and not self.refused


def tolerance(exported: Exported, expected: NDArray[np.generic]) -> float:
    """How far an answer may be from the tool's: runtimes add in different orders, and 8 and 16 bits round coarsely."""
    if not np.issubdtype(expected.dtype, np.inexact):
        return 0
    coarse = exported.tool == "onnxruntime" or expected.dtype == np.float16
    return (0.02 if coarse else 1e-4) * max(1.0, float(np.abs(expected).max(initial=0)))


def differences(exported: Exported, given: Tensors, expected: Tensors) -> Iterable[str]:
    """What differs between an answer and the tool's. Outputs that are not among the tool's answers are passed over.

    A first dimension of 1 may be left out: a bare graph with such a dimension is taken to have it for the batch.
    """
    for name, value in expected.items():
        if name not in given:
            yield f"there is no '{name}', but {', '.join(given)}"
            continue
        got = given[name]
        if value.shape == (1, *got.shape):
            got = got[None]
        if value.dtype.kind == "U":
            if got.tolist() != value.tolist():
                yield f"'{name}' is {got.tolist()}, the tool's is {value.tolist()}"
            continue
        if (got.dtype, got.shape) != (value.dtype, value.shape):
            yield f"'{name}' is {got.dtype}{list(got.shape)}, the tool's is {value.dtype}{list(value.shape)}"
        elif not np.allclose(got, value, rtol=0, atol=tolerance(exported, value)):
            yield f"'{name}' begins with {got.ravel()[:4]}, the tool's with {value.ravel()[:4]}"


async def judge(models: list[Exported], repository: Path) -> dict[str, Verdict]:
    """Serves all of `models`, bare and with their model.toml, in one server. Returns the verdicts by name in it."""
    served: dict[str, Exported] = {}
    for exported in models:
        served[exported.name] = exported
        exported.put(repository, exported.name, SHORT)
        if exported.toml:
            served[exported.name + STATED] = exported
            exported.put(repository, exported.name + STATED, SHORT + exported.toml)
    with capture_logs() as log:
        async with serving(repository, lanes=("cpu:0",)) as app, Client(app.address) as client:
            found = {model.name: model.versions[0] for model in await client.models()}
            verdicts = {name: await _judge(client, name, served[name], found[name]) for name in served}
    notes: dict[str, tuple[str, ...]] = {}
    for line in log:
        if "note" in line:
            name = line["model"].partition("/")[0]
            notes[name] = (*notes.get(name, ()), line["note"])
    return {name: replace(verdict, notes=notes.get(name, ())) for name, verdict in verdicts.items()}


async def _judge(client: Client, name: str, exported: Exported, version: model_pb2.ModelVersion) -> Verdict:
    if version.state != model_pb2.MODEL_STATE_READY:
        return Verdict(refused=version.error)
    if not exported.frames:
        return Verdict(wrong="it is served, and the tool's answers are not known")
    sizes = tuple(planned.batch_size for planned in version.variants[0].profile)
    batch_max = 0
    for _ in range(ROUNDS_MAX):
        # Each stream begins with another frame, so that different frames meet in a batch.
        turns = [exported.frames[start:] + exported.frames[:start] for start in range(STREAMS)]
        for batched, verdict in await asyncio.gather(*(_stream(client, exported, name, turn) for turn in turns)):
            if verdict is not None:
                return replace(verdict, batch_sizes=sizes)
            batch_max = max(batch_max, batched)
        if batch_max > 1 or max(sizes) == 1:
            return Verdict(batch_sizes=sizes)
    return Verdict(wrong=f"no frames shared a batch in {ROUNDS_MAX} rounds", batch_sizes=sizes)


async def _stream(
    client: Client, exported: Exported, model: str, frames: list[tuple[Tensors, Tensors]]
) -> tuple[int, Verdict | None]:
    """Sends all frames at once. Returns the largest batch that one ran in, and what is not right, if anything."""
    batch_max = 0
    async with client.stream(model, budget_ms=BUDGET_MS, backlog="ALL", ordering="ARRIVAL") as stream:
        for inputs, _ in frames:
            try:
                await stream.send(inputs)
            except ValueError as error:
                return 0, Verdict(refused=str(error))
        await stream.finish()
        for _, expected in frames:
            outcome = await anext(stream)
            if outcome.status == Status.INVALID:
                return 0, Verdict(refused=outcome.reason)
            if outcome.status != Status.ON_TIME:
                return 0, Verdict(wrong=f"{outcome.status.name}: {outcome.reason}")
            if wrong := "; ".join(differences(exported, outcome.outputs, expected)):
                return 0, Verdict(wrong=f"in a batch of {outcome.batch_size}, {wrong}")
            batch_max = max(batch_max, outcome.batch_size)
    return batch_max, None
