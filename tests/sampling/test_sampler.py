"""Which frames are kept, what is handed over of each, and that no frame's way depends on it."""

import os
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from duly.core.types import FusionWait, GapPolicy, OutcomeStatus
from duly.metrics import SamplingCounts
from duly.models.spec import Signature, TensorSpec
from duly.runtime.held_frames import InputData
from duly.runtime.shared_memory import ClientMemory, SharedData
from duly.sampling import wire
from duly.sampling.runs import State
from duly.sampling.sample import Sample, form_of, sample_of
from duly.sampling.sampler import FRAME_BYTES_MAX, Drawing, Learned, Sampler
from duly.streams.fusion import FusionGroups
from duly.streams.stream import Stream
from duly.streams.terms import FusionAsked, StreamRequest
from duly.worker.channel import ENCODINGS, ROW
from tests.streams.bench import MS, Bench, statuses, written

DRAWING = Drawing(("*",), 4, 3, 2, 1)


class Writer:
    """Takes what the sampler hands over, as the link to the process that writes does."""

    def __init__(self) -> None:
        self.counts = SamplingCounts()
        self.told: list[tuple[str, str]] = []
        self.has_room = True
        self.kept: list[tuple[Sample, dict[str, Any]]] = []

    def send(self, head: bytes, data: Sequence[wire.Buffer], size_bytes: int, places: int) -> None:
        messages = wire.Messages()
        for piece in (head, *data):
            messages.feed(piece)
        message = messages.next()
        assert message is not None
        _, body, came = message
        assert len(came) == size_bytes
        assert places == ("group" in body) + body["store"]
        pieces = wire.parts(came, [size for *_, size in body["tensors"]])
        form = form_of(body["form"])
        arrays = {
            name: np.frombuffer(piece, np.uint8)  # the lane of these tests answers whatever it likes
            for (name, _, _), piece in zip(body["tensors"], pieces, strict=True)
        }
        self.kept.append((sample_of(form, body["frame"], arrays), body))

    def tell_ended(self, model: str, group: str) -> bool:
        if self.has_room:
            self.told.append((model, group))
        return self.has_room

    @property
    def frames(self) -> list[int]:
        return [kept.frame_id for kept, _ in self.kept]


class Rig:
    def __init__(
        self, drawing: Drawing | None = DRAWING, learned: Learned | None = None, stateful: bool = False
    ) -> None:
        self.bench = Bench(stateful=stateful)
        self.writer = Writer()
        driver = self.bench.driver
        learns = None if learned is None else lambda model: learned
        self.sampler = Sampler(self.writer, driver.clock, driver.sink, drawing, learns)  # type: ignore[arg-type]
        driver.add_tap(self.sampler.take)

    def run(self, stream: Stream, *frame_ids: int, data: InputData | None = None) -> None:
        """Has frames run one after the other."""
        for frame_id in frame_ids:
            held = stream.take(frame_id, 0, 0, False, 0)
            assert held is not None
            data_of_it = data or InputData(0, (1,), bytes([frame_id % 256]))
            stream.submit(held, [data_of_it], 1)
            self.bench.driver._admit()
            self.bench.clock.now_ns += MS
            self.bench.end_batch()


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_what_is_handed_over_is_the_frame(rig: Rig) -> None:
    stream = rig.bench.open(stream_name="front")
    rig.run(stream, 7)
    ((kept, body),) = rig.writer.kept
    key = rig.sampler.key_of(stream)
    assert (kept.stream, kept.frame_id, kept.stream_name) == (key, 7, "front")
    assert (body["group"], body["place"], body["store"]) == (key, 0, False)
    assert (kept.form.model, kept.form.version, kept.variant, kept.status) == ("m", "1", "default", "ON_TIME")
    assert kept.inputs["x"].tolist() == [7]
    assert kept.outputs["y"].tolist() == [7, 7]
    assert kept.form.output_shapes == {"y": (1,)}
    assert kept.captured_unix_ns == 0


async def test_streams_beyond_the_most_are_sampled_once_others_have_closed(rig: Rig) -> None:
    streams = [rig.bench.open() for _ in range(5)]
    for stream in streams:
        rig.run(stream, 1)
    assert rig.writer.counts.dropped == {"streams": 1}
    rig.sampler.look()
    assert rig.writer.told == []
    streams[1].close()
    rig.sampler.look()
    assert rig.writer.told == [("m", rig.sampler.key_of(streams[1]))]
    rig.run(streams[4], 2, 3)
    assert len(rig.writer.kept) == 6
    assert len(rig.sampler._streams) <= 4


async def test_the_end_of_a_stream_is_told_once_there_is_room_for_it(rig: Rig) -> None:
    streams = [rig.bench.open() for _ in range(2)]
    for stream in streams:
        rig.run(stream, 1)
    keys = [rig.sampler.key_of(stream) for stream in streams]
    assert rig.sampler.living() == {"m": set(keys)}
    streams[0].close()
    assert rig.sampler.living() == {"m": {keys[1]}}
    rig.writer.has_room = False
    rig.sampler.look()
    rig.sampler.look()
    assert rig.writer.told == []
    rig.writer.has_room = True
    rig.sampler.look()
    rig.sampler.look()
    assert rig.writer.told == [("m", keys[0])]
    assert rig.sampler.living() == {"m": {keys[1]}}


async def test_calls_that_are_no_streams_share_a_group_and_have_keys_of_their_own(rig: Rig) -> None:
    keys = []
    for _ in range(3):
        stream = rig.bench.open(single=True)
        keys.append(rig.sampler.key_of(stream))
        rig.run(stream, 1)
        stream.close()
    groups = {body["group"] for _, body in rig.writer.kept}
    assert len(groups) == 1
    assert len(set(keys)) == 3
    assert [kept.stream for kept, _ in rig.writer.kept] == keys
    assert all(key.startswith(f"{group}-") for key in keys for group in groups)
    assert rig.sampler._streams == {}


async def test_all_frames_of_a_model_that_learns_are_kept_up_to_a_rate() -> None:
    rig = Rig(drawing=None, learned=Learned(10.0, "right"))
    stream = rig.bench.open()
    rig.run(stream, *range(1, 31))
    assert 10 <= len(rig.writer.kept) <= 11, "a second's worth at once"
    assert rig.writer.counts.dropped["rate"] == 30 - len(rig.writer.kept)
    assert {body["form"]["class_label"] for _, body in rig.writer.kept} == {"right"}
    assert all(body["store"] and "group" not in body for _, body in rig.writer.kept)
    rig.bench.clock.now_ns += 1000 * MS
    rig.run(stream, 100)
    assert rig.writer.frames[-1] == 100


async def test_memory_that_is_shared_is_copied_before_it_is_given_back(rig: Rig) -> None:
    fd = os.memfd_create("frames")
    os.pwrite(fd, b"first", 0)
    stream = rig.bench.open()
    held = stream.take(1, 0, 0, False, 0)
    assert held is not None
    stream.submit(held, [InputData(0, (5,), SharedData(ClientMemory(1, fd), 0, 5))], 1)
    kept: list[tuple[bytes, list[bytes]]] = []
    rig.writer.send = lambda head, data, size, places: kept.append((head, list(data)))  # type: ignore[method-assign]
    rig.bench.driver._admit()
    rig.bench.lane.running[0] = (rig.bench.lane.running[0][0], [[InputData(0, (1,), b"x")]])
    rig.bench.end_batch()
    os.pwrite(fd, b"other", 0)
    os.close(fd)
    assert kept[0][1][0] == b"first"


async def test_memory_of_a_client_that_has_gone_costs_its_frame_and_no_more(rig: Rig) -> None:
    fd = os.memfd_create("frames")
    os.truncate(fd, 3)
    short, gone = ClientMemory(1, fd), ClientMemory(2, os.dup(fd))
    gone.close()
    stream = rig.bench.open()
    for frame_id, memory in ((1, short), (2, gone)):
        held = stream.take(frame_id, 0, 0, False, 0)
        assert held is not None
        stream.submit(held, [InputData(0, (5,), SharedData(memory, 0, 5))], 1)
        rig.bench.driver._admit()
        rig.bench.lane.running[0] = (rig.bench.lane.running[0][0], [[InputData(0, (1,), b"x")]])
        rig.bench.end_batch()
    short.close()
    rig.run(stream, 3)
    assert rig.writer.counts.dropped == {"client_gone": 2}
    assert rig.writer.frames == [3]


async def test_what_is_read_beside_the_lanes_or_too_large_is_counted_and_not_kept(rig: Rig) -> None:
    stream = rig.bench.open()
    rig.run(stream, 1, data=InputData(ROW, (1,), b"x"))
    rig.bench.driver.held.bytes_max = 1 << 40
    rig.run(stream, 2, data=InputData(0, (FRAME_BYTES_MAX,), bytes(FRAME_BYTES_MAX)))
    rig.run(stream, 4, data=InputData(ENCODINGS.index("H264"), (), b"x"))
    assert rig.writer.counts.dropped == {"read_apart": 1, "too_large": 1, "video": 1}
    rig.run(stream, 5, data=InputData(ENCODINGS.index("JPEG"), (1, 1, 1), b"picture"))
    ((kept, _),) = rig.writer.kept
    assert kept.encodings == {"input.x": "JPEG"}
    assert kept.inputs["x"].tobytes() == b"picture"
    assert kept.form.datatypes["input.x"] == "UINT8"


async def test_a_frame_that_cannot_be_looked_at_is_counted_and_the_next_one_is_kept(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = rig.bench.open()
    rig.run(stream, 1)
    with monkeypatch.context() as patched:
        patched.setattr(rig.writer, "send", None)
        rig.run(stream, 2)
    rig.run(stream, 3)
    assert rig.writer.frames == [1, 3]
    assert rig.writer.counts.dropped == {"fault": 1}


async def test_a_joint_frame_is_kept_once_under_the_keys_of_all_its_pieces(rig: Rig) -> None:
    def spec(name: str) -> TensorSpec:
        return TensorSpec(name=name, datatype="UINT8", shape=(1,), bytes_max=1)

    two = Signature(
        inputs=(spec("left"), spec("right")), outputs=(spec("y"),), batch_sizes=(1,), any_size=True, stateful=False
    )
    rig.bench.catalogue.find("m").signature = two
    groups = FusionGroups(rig.bench.driver)
    streams = []
    for name in ("left", "right"):
        asked = FusionAsked("rig", name, 5 * MS, FusionWait.NEWEST)
        streams.append(_member(rig, asked, groups))
    for stream, frame_id in zip(streams, (7, 3), strict=True):
        held = stream.take(frame_id, 0, 0, False, 10**18)
        assert held is not None
        stream.submit(held, [InputData(0, (1,), bytes([frame_id]))], 1)
        rig.bench.driver._admit()
    rig.bench.end_batch()
    ((kept, body),) = rig.writer.kept
    assert kept.keys == ((rig.sampler.key_of(streams[0]), 7), (rig.sampler.key_of(streams[1]), 3))
    assert {name: array.tolist() for name, array in kept.inputs.items()} == {"left": [7], "right": [3]}
    assert body["group"] == rig.sampler.key_of(streams[0])


async def test_of_a_model_that_keeps_state_runs_are_kept_with_what_the_state_had_seen() -> None:
    rig = Rig(learned=Learned(1000.0, "label"), stateful=True)
    stream = rig.bench.open(gap_policy=GapPolicy.RESET)
    rig.run(stream, 4, 6, 7)
    rig.bench.send(stream, 8)
    rig.bench.lane.end(rig.bench.driver, failed={0: "it is broken"})  # the state begins anew with the next frame
    rig.run(stream, 9, 10, 11, 12)
    states = {4: (4, 0), 6: (4, 1), 7: (4, 2), 9: (9, 0), 10: (9, 1), 11: (9, 2), 12: (9, 3)}
    assert {kept.frame_id: kept.state for kept, _ in rig.writer.kept} == states
    places = {kept.frame_id: body["place"] for kept, body in rig.writer.kept if "place" in body}
    assert (places[4], places[6]) == (0, 1)
    assert all(place == states[frame_id][1] % 2 for frame_id, place in places.items()), "one run, as there is room for"
    rig.sampler.look()
    assert len(rig.sampler._states) == 1
    stream.close()
    rig.sampler.look()
    assert len(rig.sampler._states) == 0


async def test_single_frames_of_a_model_that_keeps_state_begin_one_each() -> None:
    rig = Rig(stateful=True)
    for _ in range(3):
        stream = rig.bench.open(single=True)
        rig.run(stream, 1)
        stream.close()
    assert [(kept.state, body["place"]) for kept, body in rig.writer.kept] == [(State(1, 0), nth) for nth in range(3)]
    assert len(rig.sampler._states) == 0


def _member(rig: Rig, asked: FusionAsked, groups: FusionGroups) -> Stream:
    request = StreamRequest(model="m", default_budget_ns=50 * MS, fusion=asked)
    stream = Stream(request, rig.bench.catalogue.find("m"), rig.bench.host, "somebody", rig.bench.use)
    groups.join(stream)
    stream.open()
    return stream


@pytest.mark.parametrize("seed", range(40))
async def test_the_law_holds_and_outcomes_are_the_same_with_sampling_and_without(seed: int) -> None:
    ends = []
    for drawing in (None, DRAWING):
        rig = Rig(drawing=drawing)
        rng = random.Random(seed)
        streams: dict[int, Stream] = {}
        sent: dict[int, list[int]] = {}
        outcomes: dict[int, dict[int, OutcomeStatus]] = {}
        for step in range(120):
            what = rng.choice(["open", "send", "send", "send", "end", "end", "close", "pass", "look"])
            if what == "open" and len(streams) < 6:
                streams[step] = rig.bench.open()
                sent[step], outcomes[step] = [], {}
            elif what == "send" and streams:
                nth = rng.choice(list(streams))
                rig.bench.send(streams[nth], step, size_bytes=rng.randint(1, 20))
                sent[nth].append(step)
            elif what == "end" and rig.bench.lane.running:
                rig.bench.end_batch()
            elif what == "close" and streams:
                nth = rng.choice(list(streams))
                streams[nth].close()
                outcomes[nth] |= statuses(await written(streams.pop(nth)))
            elif what == "pass":
                rig.bench.clock.now_ns += rng.randint(1, 30) * MS
            elif what == "look":
                rig.sampler.look()
        while rig.bench.lane.running:
            rig.bench.end_batch()
        for nth, stream in streams.items():
            outcomes[nth] |= statuses(await written(stream))
            assert sorted(outcomes[nth]) == sent[nth]
        assert rig.bench.driver.held.bytes == 0
        assert len(rig.sampler._streams) <= 4
        assert not rig.writer.counts.dropped["fault"]
        assert bool(rig.writer.kept) == (drawing is not None)
        assert all(np.all(kept.inputs["x"] == 0) for kept, _ in rig.writer.kept)
        ends.append(outcomes)
    assert ends[0] == ends[1]
