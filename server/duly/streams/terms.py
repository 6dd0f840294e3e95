"""Checks what a client asks for when it opens a stream, and completes it with the model's defaults."""

from collections.abc import Sequence
from dataclasses import dataclass

from duly.core.backlog import frames_kept, takes_frames
from duly.core.types import BacklogPolicy, FusionWait, GapPolicy, StreamClass, StreamTerms
from duly.models.spec import ModelConfig, Signature
from duly.runtime.catalogue import LoadedVersion
from duly.streams.clock import UNCERTAINTY_NS_MAX, ClockRelation
from duly.streams.errors import InvalidTerms
from duly.streams.limits import StreamLimits
from duly.streams.ordering import OrderingPolicy

STREAM_NAME_BYTES_MAX = 128
"""A stream with a longer name is refused: INVALID_OPEN."""
FLOOR_WINDOW_MAX = 1024
"""The largest window of a floor; a larger one is INVALID_OPEN. The scheduler keeps a bit for each frame of it."""


@dataclass(frozen=True, slots=True)
class FusionAsked:
    """How a stream asks to be a member of a fusion group."""

    group: str
    input: str
    """Name of the model's input that the stream gives."""
    tolerance_ns: int
    wait: FusionWait


@dataclass(slots=True)
class StreamRequest:
    """How a client wants to be served, whatever protocol it speaks. None, 0 and empty stand for the model's default."""

    model: str
    version: str = ""
    """Empty: whichever is active, also when that changes."""
    stream_name: str = ""
    stream_class: StreamClass | None = None
    backlog_policy: BacklogPolicy | None = None
    backlog_frames: int = 0
    ordering: OrderingPolicy = OrderingPolicy.UNORDERED
    default_budget_ns: int = 0
    expected_period_ns: int = 0
    outputs: Sequence[str] = ()
    """Names of the outputs to send; empty: all."""
    gap_policy: GapPolicy | None = None
    variant_lowest: str = ""
    floor: tuple[int, int] | None = None
    """(m, k): of any k frames in a row m should be on time."""
    clock: ClockRelation | None = None
    single: bool = False
    """Whether it is for one frame alone, which opens without admission and so can be promised nothing."""
    fusion: FusionAsked | None = None
    """None: its frames have all inputs of the model."""
    budget_name: str = "budget_nano"
    """What the budget of a frame is called on the wire, for the reasons of frames that ask for an impossible one."""


def stream_terms(asked: StreamRequest, served: LoadedVersion, limits: StreamLimits, principal: str) -> StreamTerms:
    """Returns the terms that the scheduler keeps to. `principal`: whose stream it is. Raises InvalidTerms."""
    config, signature = served.version.config, signature_of(served)
    if len(asked.stream_name.encode()) > STREAM_NAME_BYTES_MAX:
        raise InvalidTerms("stream_name", f"is longer than {STREAM_NAME_BYTES_MAX} bytes")
    if not asked.stream_name.isprintable():
        raise InvalidTerms("stream_name", "has characters that cannot be printed")
    backlog, frames = _backlog(asked, config)
    if asked.expected_period_ns < 0:
        raise InvalidTerms("expected_period_ns", f"is negative: {asked.expected_period_ns}")
    stream_class = _stream_class(asked, served)
    gap = None
    if signature.stateful:
        gap = asked.gap_policy or GapPolicy[config.gap]
    elif asked.gap_policy:
        raise InvalidTerms("gap_policy", f"model {served.version.name!r} keeps no state; leave it out")
    floor_frames, floor_window = _floor(asked.floor)
    if not 0 <= asked.default_budget_ns <= limits.budget_ns_max:
        raise InvalidTerms("default_budget_ns", f"should be 0 to {limits.budget_ns_max}, got {asked.default_budget_ns}")
    return StreamTerms(
        stream_class=stream_class,
        backlog=backlog,
        backlog_frames=frames,
        budget_ns=asked.default_budget_ns or int(config.default_budget_ms * 1e6),
        frames_in_flight_max=limits.frames_in_flight_max,
        gap=gap,
        model=served.key,
        period_ns=asked.expected_period_ns,
        variant_rank_max=_variant_rank_max(asked.variant_lowest, config),
        principal=principal,
        floor_frames=floor_frames,
        floor_window=floor_window,
        pinned=bool(asked.version),
        policed=asked.expected_period_ns > 0,
    )


def _stream_class(asked: StreamRequest, served: LoadedVersion) -> StreamClass:
    """Returns the class. CRITICAL is a promise, which can be neither made nor kept without a period."""
    default = StreamClass[served.version.config.default_class]
    if asked.single:
        if asked.stream_class is StreamClass.CRITICAL:
            raise InvalidTerms("stream_class", ": CRITICAL is for streams that state a period; a single frame has none")
        return asked.stream_class or max(StreamClass.STANDARD, default)
    stream_class = asked.stream_class or default
    if stream_class is StreamClass.CRITICAL and not asked.expected_period_ns:
        whose = "" if asked.stream_class else f" (the default of model {served.version.name!r})"
        raise InvalidTerms("expected_period_ns", f"should be stated: a CRITICAL stream{whose} is promised its period")
    return stream_class


def _backlog(asked: StreamRequest, config: ModelConfig) -> tuple[BacklogPolicy, int]:
    """Returns the policy, and how many frames may wait under it: 0 under ALL, where any number may."""
    policy, frames = asked.backlog_policy, asked.backlog_frames
    if policy is None:
        policy = BacklogPolicy[config.default_backlog]
        if takes_frames(policy):
            frames = frames or config.default_backlog_frames
    try:
        return policy, frames_kept(policy, frames)
    except ValueError as error:
        raise InvalidTerms("backlog_frames", str(error)) from None


def _floor(floor: tuple[int, int] | None) -> tuple[int, int]:
    if floor is None:
        return 0, 0
    frames, window = floor
    if not 2 <= window <= FLOOR_WINDOW_MAX:
        raise InvalidTerms("floor.window", f"should be 2 to {FLOOR_WINDOW_MAX}, got {window}")
    if not 1 <= frames < window:
        raise InvalidTerms("floor.frames", f"should be 1 to {window - 1}, less than floor.window, got {frames}")
    return frames, window


def _variant_rank_max(lowest: str, config: ModelConfig) -> int:
    names = config.variant_names
    if not lowest:
        return len(names) - 1
    if lowest not in names:
        raise InvalidTerms("variant_lowest", f": there is no variant {lowest!r}; there are: {', '.join(names)}")
    return names.index(lowest)


def wanted_outputs(names: Sequence[str], signature: Signature) -> tuple[str, ...]:
    """Returns the names of the outputs to send; empty: all. Raises InvalidTerms."""
    known = [spec.name for spec in signature.outputs]
    wanted = tuple(names)
    for name in wanted:
        if name not in known:
            raise InvalidTerms("outputs", f": there is no output {name!r}; there are: {', '.join(known)}")
    if len(wanted) > len(known):
        raise InvalidTerms("outputs", "name one twice")
    return wanted


def clock_relation(offset_ns: int, uncertainty_ns: int, field: str = "clock") -> ClockRelation:
    """Returns how the clocks relate. `field`: where the client said so. Raises InvalidTerms."""
    if not 0 < uncertainty_ns <= UNCERTAINTY_NS_MAX:
        raise InvalidTerms(f"{field}.uncertainty_ns", f"should be 1 to {UNCERTAINTY_NS_MAX}, got {uncertainty_ns}")
    return ClockRelation(offset_ns, uncertainty_ns)


def signature_of(served: LoadedVersion) -> Signature:
    assert served.signature is not None, "only versions that were loaded are found"
    return served.signature
