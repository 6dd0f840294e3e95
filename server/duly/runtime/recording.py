"""A recording of the scheduler: every (now, event) that went in, and in short what came out, as JSON lines.

    {"duly_recording":1}
    [NOW_NS,"FramesArrived",{"frames":[{"seq":1,"stream_id":1,"frame_id":1,"model":"m/1","deadline_ns":50}]}]
    [["run",1,"cpu:0","m/1","fp32",[1]]]

The first line names the format. An event is one line with those fields of `core/events` that differ from their
defaults. The line after it has the actions that came of the event, if any:

    ["run", batch id, lane, model, variant, [seq of each frame]]     ["end", seq, status, batch id]
    ["warm", batch id, lane, model, variant]                         ["advise", stream id, advice, period_ns]

A joint frame (`core/fusion`) stands there as the frames that it was made of.

A segment begins with a line that names the format. The first one of a server begins with a fresh scheduler, which acts
alike on the same events; one that begins later has the state of the scheduler at that moment (`scheduler_state`):

    {"duly_recording":1,"state":[...]}         {"duly_recording":1,"state":null,"lost":12}

`state` is null where it was not written down, so that the segment can be read and not replayed. `lost` says how many
events are missing before it. So every segment stands for itself, and a file is one or several of them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from duly.core.scheduler import Scheduler
from duly.runtime.recording_lines import ADAPTERS, FORMAT, HEADER
from duly.runtime.scheduler_state import StateError, scheduler_of

LINE_BYTES_MAX = 1 << 26
"""The longest line that is read. No event takes more: 65,536 frames of one turn of the loop take 200 bytes each. The
state of a scheduler takes less than 20 KiB for each stream."""


class RecordingError(Exception):
    """A recording can't be read; the text names the line and what should be there."""


class Step(NamedTuple):
    """One call of the scheduler."""

    line: int
    """Line of the event in the file; the first line of a file is 1."""
    now_ns: int
    event: Any
    actions: list[list[Any]]
    """The actions in short, as recorded."""
    begins: bool = False
    """Whether it is the first step of a segment."""
    scheduler: Scheduler | None = None
    """The scheduler that a segment begins with; None: its state was not written down."""


def read_recording(path: Path) -> Iterator[Step]:
    """Yields the steps of a recording, in order. Raises RecordingError, also in the middle of it, and OSError.

    A last line that was cut off, as by a server that was killed, is left out, and so is an event without its actions at
    the very end.
    """
    with path.open("rb") as file:
        begins, scheduler = True, _begin(path, 1, file.readline(LINE_BYTES_MAX))
        pending: Step | None = None
        number = 1
        while line := file.readline(LINE_BYTES_MAX):
            number += 1
            if not line.endswith(b"\n"):
                if len(line) == LINE_BYTES_MAX:
                    raise RecordingError(f"{path}: line {number}: is longer than {LINE_BYTES_MAX:,} bytes")
                return
            if line.startswith(b"{"):
                if pending is not None:
                    yield pending
                    pending = None
                begins, scheduler = True, _begin(path, number, line)
                continue
            values = _values(path, number, line)
            if isinstance(values[0], list):
                if pending is None:
                    raise RecordingError(f"{path}: line {number}: actions without an event before them")
                yield pending._replace(actions=values)
                pending = None
                continue
            if pending is not None:
                yield pending
            pending = _step(path, number, values)
            if begins:
                pending = pending._replace(begins=True, scheduler=scheduler)
                begins, scheduler = False, None


def _begin(path: Path, number: int, line: bytes) -> Scheduler | None:
    """Returns the scheduler with which a segment begins; None where its state was not written down."""
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or HEADER not in header:
        if number > 1:
            raise RecordingError(f"{path}: line {number}: should be [NOW_NS, EVENT, FIELDS] or a list of actions")
        raise RecordingError(f'{path}: is no recording: the first line should be {{"{HEADER}": {FORMAT}}}')
    if header[HEADER] != FORMAT:
        raise RecordingError(f"{path}: has format {header[HEADER]!r}; this version of duly reads format {FORMAT}")
    if "state" not in header:
        return Scheduler()
    if header["state"] is None:
        return None
    try:
        return scheduler_of(header["state"])
    except StateError as error:
        raise RecordingError(f"{path}: line {number}: {error}") from None


def _values(path: Path, number: int, line: bytes) -> list[Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{path}: line {number}: is not JSON: {error}") from None
    if not isinstance(values, list) or not values:
        raise RecordingError(f"{path}: line {number}: should be [NOW_NS, EVENT, FIELDS] or a list of actions")
    return values


def _step(path: Path, number: int, values: list[Any]) -> Step:
    if len(values) != 3 or type(values[0]) is not int or not isinstance(values[1], str):
        raise RecordingError(f"{path}: line {number}: should be [NOW_NS, EVENT, FIELDS]")
    now_ns, name, fields = values
    adapter = ADAPTERS.get(name)
    if adapter is None:
        raise RecordingError(f"{path}: line {number}: there is no event {name!r}; there are: {', '.join(ADAPTERS)}")
    try:
        return Step(number, now_ns, adapter.validate_python(fields), [])
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        place = ".".join(map(str, detail["loc"])) or "fields"
        raise RecordingError(f"{path}: line {number}: {name}.{place}: {detail['msg']}") from None
