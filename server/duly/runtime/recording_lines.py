"""The lines of a recording, as `recording` describes them: how events and actions are written.

What comes with every frame is formatted here by hand, several times as fast as by pydantic, which writes all else; a
test compares both.
"""

import json
from dataclasses import MISSING, field, fields, make_dataclass
from functools import lru_cache
from types import GenericAlias
from typing import Annotated, Any, assert_never, get_args

from pydantic import AfterValidator, TypeAdapter

from duly.core.events import (
    Action,
    AdviseStream,
    BatchFinished,
    DispatchBatch,
    Event,
    FrameRefused,
    FramesArrived,
    FramesCancelled,
    ModelGone,
    ModelReady,
    ReadApart,
    ResolveFrame,
    StreamOpened,
    TimerFired,
    WarmLane,
)
from duly.core.types import Frame, Fusion, GapPolicy, JointFrame, StreamTerms, pieces_of

FORMAT = 1
HEADER = "duly_recording"


def _described(kind: Any, lost: dict[str, Any]) -> Any:
    """Returns `kind`, a class of the core, as pydantic reads and writes it: a twin of it, which is never compiled.

    Pydantic can't make objects of a compiled class (`make core`), as they have no `__dict__` to fill in, so `kind` is
    called with what the twin was given. Pydantic does not see what the fields hold either: compiled annotations keep
    `list` of `list[Frame]` and `type` of `int | None`. `lost` gives the types that are lost so, by name of the field.
    """
    its_fields = [
        (each.name, lost.get(each.name, each.type), field(default=each.default, default_factory=each.default_factory))
        for each in fields(kind)
    ]
    twin = make_dataclass(kind.__name__, its_fields)
    return Annotated[twin, AfterValidator(lambda read: kind(**vars(read)))]


_LOST: dict[Any, dict[str, Any]] = {
    StreamOpened: {
        "terms": _described(
            StreamTerms,
            {"gap": GapPolicy | None, "fusion": _described(Fusion, {"inputs": tuple[str, ...]}) | None},
        )
    },
    FrameRefused: {"captured_ns": int | None},
    FramesArrived: {"frames": GenericAlias(list, _described(Frame, {}))},
    FramesCancelled: {"frame_ids": tuple[int, ...]},
    BatchFinished: {"invalid": dict[int, str], "failed": dict[int, str], "finished_ns": int | None},
    ModelReady: {"samples_ns": dict[int, tuple[int, ...]]},
    ModelGone: {"lane": str | None},
}
ADAPTERS: dict[str, TypeAdapter[Any]] = {
    kind.__name__: TypeAdapter(_described(kind, _LOST.get(kind, {}))) for kind in get_args(Event)
}

_quoted = lru_cache(maxsize=1024)(json.dumps)
"""Names in JSON: there are few, and each comes with every frame."""


def header_line(**more: Any) -> bytes:
    """Returns the line with which a segment begins."""
    return json.dumps({HEADER: FORMAT} | more, separators=(",", ":")).encode() + b"\n"


def event_line(now_ns: int, event: Event) -> bytes:
    if isinstance(event, FramesArrived):
        return f'[{now_ns},"FramesArrived",{{"frames":[{",".join(map(_frame, event.frames))}]}}]\n'.encode()
    if isinstance(event, BatchFinished) and event.finished_ns is not None and not event.invalid and not event.failed:
        text = f'[{now_ns},"BatchFinished",{{"batch_id":{event.batch_id},"finished_ns":{event.finished_ns}}}]\n'
        return text.encode()
    if isinstance(event, TimerFired):
        return b'[%d,"TimerFired",{}]\n' % now_ns
    return plain_event_line(now_ns, event)


def plain_event_line(now_ns: int, event: Event) -> bytes:
    """Returns the same for any event, without haste."""
    name = type(event).__name__
    return b'[%d,"%s",%s]\n' % (now_ns, name.encode(), ADAPTERS[name].dump_json(event, exclude_defaults=True))


_OPTIONAL = [(each.name, each.default) for each in fields(Frame) if each.default is not MISSING]


def _frame(frame: Frame) -> str:
    text = (
        f'{{"seq":{frame.seq},"stream_id":{frame.stream_id},"frame_id":{frame.frame_id},'
        f'"model":{_quoted(frame.model)},"deadline_ns":{frame.deadline_ns}'
    )
    special = frame.must_run or frame.alone or frame.extra_ns or frame.apart_ns or frame.captured_ns or frame.untried
    if not special:  # as nearly always
        return text + "}"
    for name, default in _OPTIONAL:
        if (value := getattr(frame, name)) != default:
            text += f',"{name}":{json.dumps(value)}'
    return text + "}"


def actions_line(actions: list[Action]) -> bytes:
    return f"[{','.join(map(_action, actions))}]\n".encode()


def _action(action: Action) -> str:
    if isinstance(action, ResolveFrame) and not isinstance(action.frame, JointFrame):
        return f'["end",{action.frame.seq},"{action.status._name_}",{action.batch_id}]'
    if isinstance(action, DispatchBatch):
        seqs = ",".join([str(piece.seq) for frame in action.frames for piece in pieces_of(frame)])
        names = f"{_quoted(action.lane)},{_quoted(action.model)},{_quoted(action.variant)}"
        return f'["run",{action.batch_id},{names},[{seqs}]]'
    return json.dumps(in_short([action]), separators=(",", ":"))[1:-1]


def in_short(actions: list[Action]) -> list[list[Any]]:
    """Returns what a recording holds of these actions, which is enough to see where two runs differ."""
    short: list[list[Any]] = []
    for action in actions:
        match action:
            case DispatchBatch():
                seqs = [piece.seq for frame in action.frames for piece in pieces_of(frame)]
                short.append(["run", action.batch_id, action.lane, action.model, action.variant, seqs])
            case WarmLane():
                short.append(["warm", action.batch_id, action.lane, action.model, action.variant])
            case ResolveFrame():
                for piece in pieces_of(action.frame):
                    short.append(["end", piece.seq, action.status.name, action.batch_id])
            case ReadApart():
                short.append(["read", action.frame.seq])
            case AdviseStream():
                short.append(["advise", action.stream_id, action.advice.name, action.period_ns])
            case _:
                assert_never(action)
    return short
