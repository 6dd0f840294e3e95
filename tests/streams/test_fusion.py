"""Fusion groups between fake front ends and a real scheduler: who may be a member, when frames count as captured, and
that every frame leaves once.
"""

from collections.abc import Sequence
from functools import partial

import pytest

from duly.core.events import Advice
from duly.core.types import FusionWait, OutcomeStatus, StreamClass
from duly.models.spec import Signature, TensorSpec
from duly.runtime.held_frames import HeldFrame, InputData
from duly.runtime.outcome import FusedOutcome, Outcome, Partner
from duly.streams.clock import ClockRelation
from duly.streams.errors import InvalidTerms
from duly.streams.fusion import FusionGroups, InputTaken
from duly.streams.outbox import Advised
from duly.streams.stream import Stream
from duly.streams.terms import FusionAsked, StreamRequest
from tests.streams.bench import MS, Bench, notices, statuses, written

ON_TIME, EXPIRED, CANCELLED = OutcomeStatus.ON_TIME, OutcomeStatus.EXPIRED, OutcomeStatus.CANCELLED
S = 1_000_000_000
RECEIVED_UNIX_NS = 1_000_000_000 * S


def two_inputs(*names: str) -> Signature:
    inputs = tuple(TensorSpec(name=name, datatype="UINT8", shape=(1,), bytes_max=1) for name in names)
    outputs = (TensorSpec(name="y", datatype="UINT8", shape=(1,), bytes_max=1),)
    return Signature(inputs=inputs, outputs=outputs, batch_sizes=(1,), any_size=True, stateful=False)


class Rig:
    """A bench whose model takes two inputs, and its groups."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.served = self.bench.catalogue.find("m")
        self.served.signature = two_inputs("left", "right")
        self.groups = FusionGroups(self.bench.driver)

    def open(
        self, input_: str, wait: FusionWait = FusionWait.NEWEST, tolerance_ns: int = 5 * MS, **asked: object
    ) -> Stream:
        fusion = FusionAsked("rig", input_, tolerance_ns, wait)
        request = StreamRequest(**{"model": "m", "default_budget_ns": 50 * MS, "fusion": fusion} | asked)  # type: ignore[arg-type]
        bench = self.bench
        stream = Stream(request, bench.catalogue.find("m"), bench.host, "somebody", bench.use)
        self.groups.join(stream)
        stream.open()
        return stream

    def send(self, stream: Stream, frame_id: int, captured_unix_ns: int = 0, data: bytes = b"x") -> None:
        held = stream.take(frame_id, captured_unix_ns, 0, False, RECEIVED_UNIX_NS)
        if held is not None:
            stream.submit(held, [InputData(0, (1,), data)], 1)
        self.bench.driver._admit()


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_both_members_have_the_outcome_and_each_names_the_other(rig: Rig) -> None:
    left, right = rig.open("left"), rig.open("right")
    rig.send(left, 7)
    rig.send(right, 3)
    assert rig.bench.driver.held.bytes == 2
    assert (left.frame_bytes, right.frame_bytes) == (1, 1)
    rig.bench.end_batch()
    (of_left,), (of_right,) = await written(left), await written(right)
    assert isinstance(of_left, FusedOutcome)
    assert isinstance(of_right, FusedOutcome)
    assert (of_left.status, of_right.status) == (ON_TIME, ON_TIME)
    assert of_left.partners == (Partner("right", 3, of_left.partners[0].captured_after_ns),)
    assert of_right.partners[0].captured_after_ns == -of_left.partners[0].captured_after_ns
    assert (left.frame_bytes, right.frame_bytes, rig.bench.driver.held.bytes) == (0, 0, 0)
    assert rig.bench.counts() == {"ON_TIME": 2}


async def test_a_member_that_has_closed_does_not_keep_the_other_from_its_result(rig: Rig) -> None:
    left, right = rig.open("left"), rig.open("right")
    rig.send(left, 1)
    rig.send(right, 1)
    right.close()
    rig.bench.end_batch()
    assert statuses(await written(left)) == {1: ON_TIME}
    assert not rig.bench.driver.held
    rig.send(left, 2)
    (lost,) = await written(left)
    assert (lost.status, lost.reason) == (EXPIRED, "no stream gives input 'right' of fusion group 'rig'")


async def test_what_looks_at_frames_sees_one_with_the_inputs_of_all_its_pieces(rig: Rig) -> None:
    seen = []

    def tap(pieces: Sequence[HeldFrame], payload: Sequence[InputData], *rest: object) -> None:
        seen.append(([piece.frame.frame_id for piece in pieces], [bytes(data.data) for data in payload], *rest))  # type: ignore[arg-type]

    rig.bench.driver.add_tap(tap)
    left, right = rig.open("left"), rig.open("right")
    rig.send(right, 3, data=b"R")
    rig.send(left, 7, data=b"L")
    right.close()  # its piece runs on, and is looked at all the same
    rig.bench.end_batch()
    ((of_left,),) = (await written(left),)
    assert seen == [([7, 3], [b"L", b"R"], ON_TIME, of_left.outputs, of_left.run)]


async def test_a_group_ends_with_its_last_member_and_begins_anew(rig: Rig) -> None:
    left = rig.open("left")
    first = left.fusion
    with pytest.raises(InputTaken, match="another stream of group 'rig' gives 'left'; no stream gives 'right'"):
        rig.open("left")
    right = rig.open("right")
    with pytest.raises(InputTaken, match="all inputs of the model have a stream"):
        rig.open("right")
    for stream in (left, right):
        stream.close()
    assert not rig.bench.driver._delivery.sinks
    assert not rig.bench.driver.scheduler.demands(0)
    again = rig.open("right", wait=FusionWait.EXACT, tolerance_ns=0)
    assert again.fusion is not first


async def test_a_group_is_as_critical_as_its_most_critical_member(rig: Rig) -> None:
    left = rig.open("left", stream_class=StreamClass.BEST_EFFORT)
    assert left.stream_class is StreamClass.BEST_EFFORT
    right = rig.open("right", stream_class=StreamClass.CRITICAL, expected_period_ns=20 * MS, default_budget_ns=30 * MS)
    assert left.stream_class is StreamClass.CRITICAL
    (demand,) = rig.bench.driver.scheduler.demands(0)
    assert (demand.stream_class, demand.period_ns, demand.budget_ns) == (StreamClass.CRITICAL, 20 * MS, 30 * MS)
    right.close()
    (demand,) = rig.bench.driver.scheduler.demands(0)
    assert (demand.stream_class, demand.period_ns, demand.budget_ns) == (StreamClass.BEST_EFFORT, 0, 50 * MS)
    assert left.stream_class is StreamClass.BEST_EFFORT


async def test_a_frame_is_captured_when_its_client_says_or_else_when_it_comes(rig: Rig) -> None:
    left = rig.open("left", wait=FusionWait.WITHIN_DEADLINE, clock=ClockRelation(0, MS))
    right = rig.open("right", wait=FusionWait.WITHIN_DEADLINE)
    rig.send(left, 1, captured_unix_ns=RECEIVED_UNIX_NS - 20 * MS)
    rig.send(right, 1, captured_unix_ns=RECEIVED_UNIX_NS - 20 * MS)  # its clocks are not related
    (lost,) = await written(left)
    assert lost.status is EXPIRED
    assert "no frame of input 'right' fits it: frame 1 was captured 20 ms after it" in lost.reason
    rig.send(left, 2, captured_unix_ns=RECEIVED_UNIX_NS)
    rig.bench.end_batch()
    assert statuses(await written(left)) == {2: ON_TIME}
    assert statuses(await written(right)) == {1: ON_TIME}


async def test_exact_needs_a_capture_time_and_no_relation_of_clocks(rig: Rig) -> None:
    open_exact = partial(rig.open, wait=FusionWait.EXACT, tolerance_ns=0)
    left, right = open_exact("left"), open_exact("right")
    rig.send(left, 1)
    (refused,) = await written(left)
    assert refused.status is OutcomeStatus.INVALID
    assert refused.reason.startswith("its capture time should be stated")
    rig.send(left, 2, captured_unix_ns=5 * S)
    rig.send(right, 1, captured_unix_ns=5 * S)
    rig.bench.end_batch()
    assert statuses(await written(left)) == {2: ON_TIME}
    assert statuses(await written(right)) == {1: ON_TIME}


async def test_what_the_group_is_told_its_members_are_told(rig: Rig) -> None:
    left, right = rig.open("left"), rig.open("right")
    assert left.fusion is not None
    left.fusion.advise(Advice.DRAINING, "the server stops", 0)
    for stream in (left, right):
        told = await notices(stream)
        assert [notice.advice for notice in told if isinstance(notice, Advised)] == [Advice.DRAINING]


class Broken:
    """A sink that fails on every outcome."""

    def __init__(self) -> None:
        self.ended = False

    def deliver(self, outcome: Outcome) -> None:
        raise RuntimeError("broken")

    def advise(self, advice: Advice, reason: str, period_ns: int) -> None: ...

    def fail(self) -> None:
        self.ended = True


async def test_a_member_that_fails_on_its_outcome_does_not_keep_the_other_from_its_own(rig: Rig) -> None:
    left, right = rig.open("left"), rig.open("right")
    broken = rig.bench.driver._delivery.sinks[left.stream_id] = Broken()
    rig.send(left, 1)
    rig.send(right, 1)
    rig.bench.end_batch()
    assert statuses(await written(right)) == {1: ON_TIME}
    assert broken.ended
    assert not rig.bench.driver.held


async def test_a_fresh_scheduler_knows_the_groups(rig: Rig) -> None:
    left, right = rig.open("left"), rig.open("right")
    rig.send(left, 1)
    rig.bench.driver._start_anew("the scheduler failed")
    assert statuses(await written(left)) == {1: OutcomeStatus.FAILED}
    assert right.fusion is not None
    assert set(rig.bench.driver.scheduler._fusion.members) == {left.stream_id, right.stream_id}
    assert left.fusion is right.fusion


async def test_a_version_with_other_inputs_ends_the_streams(rig: Rig) -> None:
    left = rig.open("left")
    rig.open("right")
    rig.served.signature = two_inputs("left", "bottom")
    left._changes_count -= 1
    with pytest.raises(InvalidTerms, match="version 1 takes 'left', 'bottom', the group gives 'left', 'right'"):
        rig.send(left, 1)


async def test_a_broken_stream_that_closes_late_takes_no_group_of_the_same_name_along(rig: Rig) -> None:
    broken = rig.open("left")
    broken.fail()
    left = rig.open("left")
    broken.close()
    right = rig.open("right")
    assert right.fusion is left.fusion
    rig.send(left, 1)
    rig.send(right, 1)
    rig.bench.end_batch()
    assert statuses(await written(left)) == statuses(await written(right)) == {1: ON_TIME}
