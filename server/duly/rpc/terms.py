"""What a client asks for when it opens a stream, checked and completed with the model's defaults."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote

from duly.core.types import BacklogPolicy, GapPolicy, StreamClass, StreamTerms
from duly.models.spec import ModelConfig, Signature
from duly.rpc.errors import CallError
from duly.rpc.ordering import Arrival, Monotonic, Ordering, Unordered
from duly.runtime.catalogue import LoadedVersion
from duly.v1 import inference_pb2

_E = TypeVar("_E", StreamClass, BacklogPolicy, GapPolicy)

STREAM_NAME_BYTES_MAX = 128
BACKLOG_FRAMES_MAX = 4096
FLOOR_WINDOW_MAX = 1024
"""The scheduler keeps a bit for each frame of the window."""
CLOCK_UNCERTAINTY_NS_MAX = 60 * 10**9
"""A clock known no better than this relates to nothing."""


@dataclass(slots=True)
class Clock:
    """Server wall clock minus client wall clock, and how far that may be off; ns."""

    offset_ns: int
    uncertainty_ns: int


@dataclass(slots=True)
class Limits:
    """What one client may ask for."""

    frames_in_flight_max: int
    bytes_in_flight_max: int
    budget_ns_max: int


def stream_terms(open_: inference_pb2.OpenStream, served: LoadedVersion, limits: Limits, principal: str) -> StreamTerms:
    """`principal`: whose stream it is. Raises CallError INVALID_OPEN that names the field."""
    config, signature = served.version.config, _signature(served)
    if len(open_.stream_name.encode()) > STREAM_NAME_BYTES_MAX:
        raise _invalid("stream_name", f"is longer than {STREAM_NAME_BYTES_MAX} bytes")
    if not open_.stream_name.isprintable():
        raise _invalid("stream_name", "has characters that cannot be printed")
    if open_.backlog_policy:
        backlog = _known(BacklogPolicy, open_.backlog_policy, "backlog_policy")
        frames = open_.backlog_frames
    else:
        backlog = BacklogPolicy[config.default_backlog]
        frames = open_.backlog_frames or (config.default_backlog_frames if backlog is BacklogPolicy.KEEP_LAST else 0)
    if backlog is BacklogPolicy.KEEP_LAST and not 1 <= frames <= BACKLOG_FRAMES_MAX:
        raise _invalid("backlog_frames", f"should be 1 to {BACKLOG_FRAMES_MAX} with KEEP_LAST, got {frames}")
    if backlog is not BacklogPolicy.KEEP_LAST and frames:
        raise _invalid("backlog_frames", f"goes with KEEP_LAST alone, got {frames} with {backlog.name}")
    if open_.expected_period_nano < 0:
        raise _invalid("expected_period_nano", f"is negative: {open_.expected_period_nano}")
    gap = None
    if signature.stateful:
        gap = _known(GapPolicy, open_.gap_policy, "gap_policy") if open_.gap_policy else GapPolicy[config.gap]
    elif open_.gap_policy:
        raise _invalid("gap_policy", f"model {served.version.name!r} keeps no state; leave it out")
    floor_frames, floor_window = _floor(open_)
    return StreamTerms(
        stream_class=class_of(open_.stream_class, served),
        backlog=backlog,
        backlog_frames=1 if backlog is BacklogPolicy.LATEST else frames,
        budget_ns=budget_of(open_.default_budget_nano, served, limits),
        frames_in_flight_max=limits.frames_in_flight_max,
        gap=gap,
        model=served.key,
        period_ns=open_.expected_period_nano,
        variant_rank_max=_variant_rank_max(open_.variant_lowest, config),
        principal=principal,
        floor_frames=floor_frames,
        floor_window=floor_window,
    )


def principal_of(peer: str) -> str:
    """Whose streams come from that peer, as gRPC names it: its address without the port.

    All clients over a UNIX socket are one principal.
    """
    kind, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else kind


def _floor(open_: inference_pb2.OpenStream) -> tuple[int, int]:
    if not open_.HasField("floor"):
        return 0, 0
    frames, window = open_.floor.frames, open_.floor.window
    if not 2 <= window <= FLOOR_WINDOW_MAX:
        raise _invalid("floor.window", f"should be 2 to {FLOOR_WINDOW_MAX}, got {window}")
    if not 1 <= frames < window:
        raise _invalid("floor.frames", f"should be 1 to {window - 1}, less than floor.window, got {frames}")
    return frames, window


def _variant_rank_max(lowest: str, config: ModelConfig) -> int:
    names = config.variant_names
    if not lowest:
        return len(names) - 1
    if lowest not in names:
        raise _invalid("variant_lowest", f"there is no variant {lowest!r}; there are: {', '.join(names)}")
    return names.index(lowest)


def class_of(number: int, served: LoadedVersion) -> StreamClass:
    return _known(StreamClass, number, "stream_class") if number else StreamClass[served.version.config.default_class]


def budget_of(budget_ns: int, served: LoadedVersion, limits: Limits) -> int:
    if not 0 <= budget_ns <= limits.budget_ns_max:
        raise _invalid("default_budget_nano", f"should be 0 to {limits.budget_ns_max}, got {budget_ns}")
    return budget_ns or int(served.version.config.default_budget_ms * 1e6)


def wanted_outputs(names: Iterable[str], signature: Signature) -> tuple[str, ...]:
    """Names of outputs to send; empty: all."""
    known = [spec.name for spec in signature.outputs]
    wanted = tuple(names)
    for name in wanted:
        if name not in known:
            raise _invalid("outputs", f"there is no output {name!r}; there are: {', '.join(known)}")
    if len(wanted) > len(known):
        raise _invalid("outputs", "name one twice")
    return wanted


def ordering_of(number: int) -> Ordering:
    match number:
        case inference_pb2.ORDERING_UNSPECIFIED | inference_pb2.ORDERING_UNORDERED:
            return Unordered()
        case inference_pb2.ORDERING_ARRIVAL:
            return Arrival()
        case inference_pb2.ORDERING_MONOTONIC:
            return Monotonic()
    raise _invalid("ordering", f"there is no ordering {number}")


def clock_of(estimate: inference_pb2.ClockEstimate, field: str) -> Clock:
    if not 0 < estimate.uncertainty_nano <= CLOCK_UNCERTAINTY_NS_MAX:
        raise _invalid(
            f"{field}.uncertainty_nano", f"should be 1 to {CLOCK_UNCERTAINTY_NS_MAX}, got {estimate.uncertainty_nano}"
        )
    return Clock(estimate.offset_nano, estimate.uncertainty_nano)


def _known(kind: type[_E], number: int, field: str) -> _E:
    try:
        return kind(number)
    except ValueError:
        raise _invalid(field, f"there is no value {number}") from None


def _signature(served: LoadedVersion) -> Signature:
    assert served.signature is not None, "only versions that were loaded are found"
    return served.signature


def _invalid(field: str, text: str) -> CallError:
    return CallError("INVALID_OPEN", f"{field} {text}" if not text.startswith("there") else f"{field}: {text}", field)
