"""What a fresh scheduler must know to take over from one that failed: which lanes are up, which models are ready, which
streams are open.

One event is kept for each lane, each variant on a lane, the limit of its batches, and each open stream, and no more.
"""

from collections.abc import Iterator

from duly.core.events import (
    BatchSizesLimited,
    DrainRequested,
    Event,
    FrameRefused,
    LaneDown,
    LaneUp,
    ModelGone,
    ModelReady,
    StreamClosed,
    StreamOpened,
)
from duly.core.types import GapPolicy


class Facts:
    def __init__(self) -> None:
        self._lanes: dict[str, LaneUp] = {}
        self._ready: dict[tuple[str, str], dict[str, ModelReady]] = {}
        """The variants that are ready, by model and lane. A model whose worker is being replaced stays here, as its
        frames may wait."""
        self._gone: dict[tuple[str, str], ModelGone] = {}
        """The models and lanes of `_ready` that have no worker now."""
        self._limited: dict[tuple[str, str], dict[str, BatchSizesLimited]] = {}
        """The variants of `_ready` that have only smaller batches."""
        self._streams: dict[int, StreamOpened] = {}
        self._drain: DrainRequested | None = None

    def note(self, event: Event) -> None:
        """Notes what the event says. Call it before the scheduler gets the event: even where the scheduler fails on it,
        the fact stays true.
        """
        match event:
            case StreamOpened():
                self._streams[event.stream_id] = event
            case StreamClosed():
                self._streams.pop(event.stream_id, None)
            case LaneUp():
                self._lanes[event.lane] = event
            case LaneDown():
                self._lanes.pop(event.lane, None)
                self._forget([key for key in self._ready if key[1] == event.lane])
            case ModelReady():
                self._ready.setdefault((event.model, event.lane), {})[event.variant] = event
                self._gone.pop((event.model, event.lane), None)
                self._limited.get((event.model, event.lane), {}).pop(event.variant, None)
            case BatchSizesLimited() if event.variant in self._ready.get((event.model, event.lane), {}):
                self._limited.setdefault((event.model, event.lane), {})[event.variant] = event
            case ModelGone(lane=None):
                self._forget([key for key in self._ready if key[0] == event.model])
            case ModelGone(lane=str(lane)) if (event.model, lane) in self._ready:
                self._gone[event.model, lane] = event
            case DrainRequested():
                self._drain = event
            case _:
                pass

    def nothing_runs_any_more(self) -> None:
        """Notes that all lanes are given up."""
        self._lanes.clear()

    def advised_streams(self) -> list[int]:
        """Returns the open streams that may have been advised to slow down; none once the server drains."""
        if self._drain is not None:
            return []
        return [stream_id for stream_id, opened in self._streams.items() if opened.terms.advise]

    def skips(self, stream_id: int) -> bool:
        """Whether nothing of the stream, or of the fusion group, is to run without its state."""
        return any(
            _runs_as(opened) == stream_id and opened.terms.gap is GapPolicy.SKIP for opened in self._streams.values()
        )

    def stateful_streams(self) -> list[int]:
        """Returns the streams of which workers keep state; in place of members of fusion groups these groups."""
        return list(
            dict.fromkeys(_runs_as(opened) for opened in self._streams.values() if opened.terms.gap is not None)
        )

    def events(self) -> Iterator[Event]:
        """Yields the facts in an order in which they may happen. Streams come after the drain, so that they are not
        advised of it again.
        """
        yield from list(self._lanes.values())
        for variants in list(self._ready.values()):
            yield from list(variants.values())
        for limits in list(self._limited.values()):
            yield from list(limits.values())
        yield from list(self._gone.values())
        if self._drain is not None:
            yield self._drain
        yield from list(self._streams.values())
        for stream_id in self.stateful_streams():
            yield FrameRefused(stream_id)  # its unanswered frames were not run

    def _forget(self, keys: list[tuple[str, str]]) -> None:
        for key in keys:
            del self._ready[key]
            self._gone.pop(key, None)
            self._limited.pop(key, None)


def _runs_as(opened: StreamOpened) -> int:
    """The stream that its frames belong to when they run."""
    fusion = opened.terms.fusion
    return opened.stream_id if fusion is None else fusion.group
