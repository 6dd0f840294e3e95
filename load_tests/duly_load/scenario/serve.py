"""The section [serve] of a scenario: what live servers are given that the harness starts itself. A server that runs
already has models and lanes of its own, and only the models' names must be right.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from duly_load.scenario.arrivals import Table, beside_scenario
from duly_load.scenario.parsing import twice
from duly_load.scenario.tables import BATCH_MAX, AtLeastOne, Name, PositiveSeconds, Seconds, one_of

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class Dense(Table):
    """FP32 `x` of [N, width] through `layers` dense layers that share one matrix. Its weights mean nothing, its cost
    does: it grows with the layers, and batching pays.
    """

    width: Annotated[int, Field(ge=1, le=4096)] = 256
    layers: Annotated[int, Field(ge=1, le=2000)] = 1


class ServedModel(Table):
    """A model for servers that the harness starts, said in one of three ways."""

    name: ModelName
    graph: Literal["mlp", "wide", "squeezenet"] | None = None
    """One of the graphs that `duly_load.graphs` makes."""
    dense: Dense | None = None
    folder: Annotated[Path, AfterValidator(beside_scenario)] | None = None
    """The folder of a model in a duly repository: VERSION/model.onnx, of which the newest counts, and what else is
    there.
    """
    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=BATCH_MAX)], ...], AtLeastOne] = (1, 2, 4, 8)
    """The largest is also what peers may batch."""

    @model_validator(mode="after")
    def _said_once(self) -> "ServedModel":
        if sum(way is not None for way in (self.graph, self.dense, self.folder)) != 1:
            raise ValueError("should have exactly one of graph, dense and folder")
        return self


class WorkerFault(Table):
    """A worker process of a duly server, which the harness must have started itself. die: it is killed. hang: it
    stands still until `back_s`, or until the server has had enough of it.
    """

    lane: Name
    kind: Literal["die", "hang"]
    at_s: Seconds
    back_s: PositiveSeconds | None = None
    """When a hanging worker goes on; only for `hang`."""


class Serve(Table):
    """What a live server serves, on which lanes, and which of its workers fail."""

    lanes: Annotated[tuple[Name, ...], Field(max_length=64), AtLeastOne] = ("cpu:0",)
    """The lanes of duly; its peers get as many CPUs."""
    model: Annotated[tuple[ServedModel, ...], Field(max_length=64)] = ()
    fault: Annotated[tuple[WorkerFault, ...], Field(max_length=64)] = ()

    def problems(self, end_s: float) -> Iterator[str]:
        """What is wrong with the tables together, in a run that lasts until `end_s`: a line each, with its place."""
        yield from twice("serve.lanes", list(self.lanes))
        yield from twice("serve.model", [model.name for model in self.model])
        for index, fault in enumerate(self.fault):
            place = f"serve.fault[{index}]"
            if fault.lane not in self.lanes:
                yield f"{place}.lane: no lane is named {fault.lane!r}; should be {one_of(list(self.lanes))}"
            if fault.at_s >= end_s:
                yield f"{place}.at_s: should be less than duration_s, which is {end_s:g}, got {fault.at_s:g}"
            if fault.back_s is None:
                continue
            if fault.kind == "die":
                yield f"{place}.back_s: should not be there, a worker that was killed is replaced by its server"
            if fault.back_s <= fault.at_s:
                yield f"{place}.back_s: should be later than at_s, which is {fault.at_s:g}, got {fault.back_s:g}"
            if fault.back_s >= end_s:
                yield f"{place}.back_s: should be less than duration_s, which is {end_s:g}, got {fault.back_s:g}"
