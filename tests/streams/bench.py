"""Streams over a real driver and scheduler, with a fake lane and a clock that the test moves; no worker and no wire."""

from pathlib import Path

from duly.core.events import LaneUp, ModelReady
from duly.core.types import OutcomeStatus, Verdict
from duly.metrics import Metrics
from duly.models.repository import ModelVersion
from duly.models.spec import ModelConfig, Signature, TensorSpec
from duly.runtime.catalogue import Catalogue, LoadedVersion
from duly.runtime.driver import Driver
from duly.runtime.held_frames import InputData
from duly.runtime.outcome import Outcome
from duly.streams.limits import CriticalLimits, Limits, PrincipalLimits, PrincipalUse, ServerLimits, StreamLimits
from duly.streams.outbox import Notice
from duly.streams.stream import Stream, StreamHost
from duly.streams.terms import StreamRequest
from duly.streams.verdict import Verdicts
from tests.runtime.fake_lane import Clock, FakeLane

MS = 1_000_000
LIMITS = Limits(StreamLimits(64, 100, 60_000 * MS), PrincipalLimits(), ServerLimits(8, 200), CriticalLimits(8, 1.0))


def signature(*outputs: str) -> Signature:
    def spec(name: str) -> TensorSpec:
        return TensorSpec(name=name, datatype="UINT8", shape=(1,), bytes_max=1)

    return Signature(
        inputs=(spec("x"),),
        outputs=tuple(spec(name) for name in outputs or ("y",)),
        batch_sizes=(1,),
        any_size=True,
        stateful=False,
    )


def version(number: str = "1", *outputs: str) -> LoadedVersion:
    loaded = LoadedVersion(ModelVersion("m", number, Path(), Path(), ModelConfig(), ()))
    loaded.signature = signature(*outputs)
    return loaded


class Bench:
    def __init__(self, limits: Limits = LIMITS, stateful: bool = False) -> None:
        self.clock = Clock()
        self.metrics = Metrics()
        verdicts = Verdicts(self.metrics)
        self.catalogue = Catalogue(("cpu:0",))
        loaded = version()
        assert loaded.signature is not None
        loaded.signature = loaded.signature.model_copy(update={"stateful": stateful})
        self.activate(loaded)
        self.driver = Driver(self.metrics, limits.server.bytes_in_flight_max, self.clock, unheard=verdicts.unheard)
        self.lane = FakeLane("m/1", "cpu:0")
        self.driver.add_worker(self.lane)
        self.driver.submit(LaneUp("cpu:0"))
        self.driver.submit(ModelReady("m/1", "cpu:0", "default", {1: (MS,), 4: (2 * MS,)}, True, stateful))
        self.host = StreamHost(self.driver, self.catalogue, verdicts, limits, advise=False)
        self.use = PrincipalUse()

    def activate(self, loaded: LoadedVersion) -> None:
        self.catalogue.put(loaded)
        self.catalogue.activate(loaded)

    def open(self, **asked: object) -> Stream:
        request = StreamRequest(**{"model": "m", "default_budget_ns": 50 * MS} | asked)  # type: ignore[arg-type]
        stream = Stream(request, self.catalogue.find("m"), self.host, "somebody", self.use)
        stream.open(Verdict(True, "", 0.0, 0))
        stream.outbox.notices.clear()
        return stream

    def send(self, stream: Stream, *frame_ids: int, size_bytes: int = 1, budget_ns: int = 0) -> None:
        for frame_id in frame_ids:
            held = stream.take(frame_id, 0, budget_ns, False, 0)
            if held is not None:
                stream.submit(held, [InputData(0, (1,), bytes(size_bytes))], size_bytes)
        self.driver._admit()  # as the loop does on its next turn

    def end_batch(self) -> None:
        self.lane.end(self.driver)

    def counts(self) -> dict[str, int]:
        """How many frames were counted, by status."""
        counts: dict[str, int] = {}
        for _, status, _, frames in self.metrics.counts():
            counts[status.name] = counts.get(status.name, 0) + frames
        return counts


async def written(stream: Stream) -> list[Outcome]:
    """The outcomes that are there now, as handed to the transport."""
    left: list[Outcome] = []
    while stream.outbox.outcomes or stream.outbox.notices:
        item = stream.next()
        if isinstance(item, tuple):
            left += item[1]
    return left


async def notices(stream: Stream) -> list[Notice]:
    """The notices that are there now."""
    left: list[Notice] = []
    while stream.outbox.notices:
        item = stream.next()
        assert item is not None
        assert not isinstance(item, tuple)
        left.append(item)
    return left


def statuses(outcomes: list[Outcome]) -> dict[int, OutcomeStatus]:
    return {outcome.held.frame.frame_id: outcome.status for outcome in outcomes}
