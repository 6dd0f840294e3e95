"""Recordings: what is written is read again, whatever the event, and replays; what is broken is told by line."""

import contextlib
import json
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from duly.core.events import (
    Action,
    Advice,
    AdviseStream,
    BatchFailed,
    BatchFinished,
    BatchSizesLimited,
    DispatchBatch,
    DrainRequested,
    Event,
    FrameRead,
    FrameRefused,
    FramesArrived,
    FramesCancelled,
    FramesTurnedOut,
    LaneDown,
    LaneUp,
    ModelGone,
    ModelReady,
    ResolveFrame,
    StreamClosed,
    StreamOpened,
    TimerFired,
    WaitingEvicted,
    WarmLane,
)
from duly.core.scheduler import Scheduler
from duly.core.types import (
    BacklogPolicy,
    Frame,
    Fusion,
    FusionWait,
    GapPolicy,
    JointFrame,
    OutcomeStatus,
    StreamClass,
    StreamTerms,
)
from duly.runtime.recording import RecordingError, read_recording
from duly.runtime.recording_file import RecordingWriter
from duly.runtime.recording_lines import actions_line, event_line, in_short, plain_event_line
from duly.runtime.scheduler_state import StateError, scheduler_of

EVENTS: list[Event] = [
    LaneUp("cpu:0"),
    ModelReady("m/1", "cpu:0", "fp32", {1: (10, 20), 4: (30,)}, True, True, 1, 5, "layout", True),
    StreamOpened(
        1,
        StreamTerms(
            StreamClass.CRITICAL,
            BacklogPolicy.KEEP_LAST,
            2,
            10**9,
            64,
            GapPolicy.SKIP,
            model="m/1",
            period_ns=7,
            variant_rank_max=1,
            principal="10.0.0.1",
            floor_frames=1,
            floor_window=2,
            advise=True,
            policed=True,
            pinned=True,
            fusion=Fusion(7, "rig", ("left", "right"), 1, 5, FusionWait.EXACT),
            spare=True,
        ),
    ),
    StreamOpened(2, StreamTerms(StreamClass.STANDARD, BacklogPolicy.ALL, 0, 1, 1)),
    FramesArrived(
        [
            Frame(1, 1, 2**63, "m/1", 50, True),
            Frame(2, 1, 2, "m/1", -60, alone=True, extra_ns=9, apart_ns=8, captured_ns=-5, untried=True),
        ]
    ),
    BatchFinished(1),
    BatchFinished(2, {1: 'NaN, "quoted", größer'}, {2: "too large"}, 77, 5),
    BatchSizesLimited("m/1", "cpu:0", "fp32", 2),
    BatchFailed(3, "gone"),
    FrameRefused(1),
    FrameRefused(1, 9),
    FramesCancelled(1, (1, 2)),
    WaitingEvicted(1),
    FrameRead(1, 2, 3, "damaged", "gone"),
    FramesTurnedOut(1, "m/1", 2, OutcomeStatus.LATE, True),
    TimerFired(),
    ModelGone("m/1", "cpu:0", "ended", back_ns=70, innocent=True),
    ModelGone("m/1", None, "unloaded"),
    LaneDown("cpu:0", "lost"),
    StreamClosed(1),
    DrainRequested(99),
]


@pytest.mark.parametrize("kind", [*get_args(Event), StreamTerms, Frame])
def test_every_field_of_every_event_is_among_these(kind: type[Any]) -> None:
    """Whatever its default, so that a field whose type the recording does not know is found below."""
    parts: list[Any] = [*EVENTS]
    for event in EVENTS:
        if isinstance(event, StreamOpened):
            parts.append(event.terms)
        elif isinstance(event, FramesArrived):
            parts += event.frames
    these = [part for part in parts if isinstance(part, kind)]
    assert these
    for each in fields(kind):
        assert any(getattr(part, each.name) != each.default for part in these), each.name


def test_every_event_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = RecordingWriter(path, 1 << 20)
    for now_ns, event in enumerate(EVENTS):
        writer.event(now_ns, event)
        writer.actions([])
    writer.event(100, TimerFired())
    writer.actions([WarmLane(9, "cpu:0", "m/1", "fp32")])
    writer.close()
    steps = list(read_recording(path))
    assert [(step.now_ns, step.event) for step in steps] == [*enumerate(EVENTS), (100, TimerFired())]
    assert steps[-1].actions == [["warm", 9, "cpu:0", "m/1", "fp32"]]


def test_fields_are_written_as_far_as_they_differ_from_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = RecordingWriter(path, 1 << 20)
    writer.event(1, FramesArrived([Frame(1, 1, 2, "m/1", 50)]))
    writer.event(2, BatchFinished(1, {1: "größer"}))
    writer.close()
    assert path.read_text().splitlines()[1:] == [
        '[1,"FramesArrived",{"frames":[{"seq":1,"stream_id":1,"frame_id":2,"model":"m/1","deadline_ns":50}]}]',
        '[2,"BatchFinished",{"batch_id":1,"invalid":{"1":"größer"}}]',
    ]


@pytest.mark.parametrize("event", EVENTS)
def test_what_is_written_in_haste_is_the_same(event: Event) -> None:
    """Also where only one field differs from its default."""
    parts: list[Any] = event.frames if isinstance(event, FramesArrived) else [event]
    events: list[Event] = [event]
    for part in parts:
        plain = replace(part, **{each.name: each.default for each in fields(part) if each.default is not MISSING})
        for each in fields(part):
            changed = replace(plain, **{each.name: getattr(part, each.name)})
            events.append(FramesArrived([changed]) if isinstance(event, FramesArrived) else changed)
    for event in events:
        assert event_line(5, event) == plain_event_line(5, event)


def test_actions_in_short() -> None:
    frame = Frame(7, 1, 1, 'm"/1', 50)
    actions: list[Action] = [
        DispatchBatch(3, "cpu:0", "m/1", "int8", [frame], 10),
        WarmLane(4, "cpu:0", "m/1", "int8"),
        ResolveFrame(frame, OutcomeStatus.LATE, "it ran longer than planned", 3, 1),
        AdviseStream(1, Advice.SLOW_DOWN, "overload", 40),
    ]
    assert json.loads(actions_line(actions)) == in_short(actions)
    assert in_short(actions) == [
        ["run", 3, "cpu:0", "m/1", "int8", [7]],
        ["warm", 4, "cpu:0", "m/1", "int8"],
        ["end", 7, "LATE", 3],
        ["advise", 1, "SLOW_DOWN", 40],
    ]


def test_a_joint_frame_stands_there_as_what_it_was_made_of() -> None:
    joint = JointFrame(9, 1, (Frame(7, 1, 1, "m/1", 50), Frame(4, 2, 1, "m/1", 60)))
    actions: list[Action] = [
        DispatchBatch(3, "cpu:0", "m/1", "int8", [joint, Frame(8, 3, 1, "m/1", 50)], 10),
        ResolveFrame(joint, OutcomeStatus.LATE, "it ran longer than planned", 3, 1),
        ResolveFrame(joint.pieces[1], OutcomeStatus.CANCELLED, "its stream closed"),
    ]
    assert json.loads(actions_line(actions)) == in_short(actions)
    assert in_short(actions) == [
        ["run", 3, "cpu:0", "m/1", "int8", [7, 4, 8]],
        ["end", 7, "LATE", 3],
        ["end", 4, "LATE", 3],
        ["end", 4, "CANCELLED", 0],
    ]


def test_a_full_recording_stops_and_what_is_there_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = RecordingWriter(path, 200)
    for now_ns in range(100):
        writer.event(now_ns, LaneUp("cpu:0"))
        writer.actions([WarmLane(1, "cpu:0", "m/1", "fp32")])
    writer.close()
    assert path.stat().st_size <= 200
    steps = list(read_recording(path))
    assert [step.now_ns for step in steps] == list(range(len(steps)))
    assert 1 <= len(steps) < 5
    assert all(step.actions for step in steps)


def test_an_existing_file_is_replaced_and_a_folder_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old")
    RecordingWriter(path, 1000).close()
    assert list(read_recording(path)) == []
    with pytest.raises(OSError, match="Is a directory"):
        RecordingWriter(tmp_path, 1000)


HEAD = '{"duly_recording":1}\n'


@pytest.mark.parametrize("cut", range(1, 80, 7))
def test_a_recording_that_was_cut_off_ends_with_its_last_whole_step(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log"
    step = '[1,"LaneUp",{"lane":"cpu:0"}]\n[["warm",1,"cpu:0","m/1","fp32"]]\n'
    path.write_text(HEAD + step + step[:-cut])
    assert len(list(read_recording(path))) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", 'is no recording: the first line should be {"duly_recording": 1}'),
        ("hello\n", 'is no recording: the first line should be {"duly_recording": 1}'),
        ('{"duly_recording":2}\n', "has format 2; this version of duly reads format 1"),
        (HEAD + "what\n", "line 2: is not JSON"),
        (HEAD + "{}\n", "line 2: should be [NOW_NS, EVENT, FIELDS] or a list of actions"),
        (HEAD + '["now","LaneUp",{}]\n', "line 2: should be [NOW_NS, EVENT, FIELDS]"),
        (HEAD + '[1,"LaneSideways",{}]\n', "line 2: there is no event 'LaneSideways'; there are: StreamOpened"),
        (
            HEAD + '[1,"TimerFired",{}]\n[2,"LaneUp",{"lane":5}]\n',
            "line 3: LaneUp.lane: Input should be a valid string",
        ),
        (HEAD + '[["run",1]]\n', "line 2: actions without an event before them"),
    ],
)
def test_what_is_wrong_with_a_recording_is_told(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "log"
    path.write_text(text)
    with pytest.raises(RecordingError) as error:
        list(read_recording(path))
    assert str(error.value).startswith(f"{path}: {reason}")


OBJECT = "duly.core.scheduler.Scheduler"
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.integers(-3, 9),
        st.sampled_from(["object", "dict", "list", "deque", "method", "enum", "tuple", "set", "step", OBJECT]),
    ),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=20,
)


@given(state=JSON)
@example(state=[["object", OBJECT, [["__class__", 1]]]])
@example(state=[["object", "os.system", []]])
@example(state=[["object", "duly.core.types.Frame", []]])
@example(state=[["tuple", [[0]]]])
@example(state=[["method", [1], "step"], ["object", OBJECT, []]])
@example(state=[["method", [1], "__init__"], ["object", OBJECT, []]])
@example(state=[["deque", 2**70, []]])
@example(state=[["list", [[n + 1]]] for n in range(5000)])
def test_any_state_is_one_of_a_scheduler_or_refused(state: Any) -> None:
    with contextlib.suppress(StateError):
        assert isinstance(scheduler_of(state), Scheduler)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any_bytes"
    path.write_bytes(HEAD.encode() + tail)
    with contextlib.suppress(RecordingError):
        list(read_recording(path))


def test_a_line_is_json_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = RecordingWriter(path, 1 << 20)
    for event in EVENTS:
        writer.event(0, event)
    writer.close()
    assert [json.loads(line)[1] for line in path.read_text().splitlines()[1:]] == [type(e).__name__ for e in EVENTS]
