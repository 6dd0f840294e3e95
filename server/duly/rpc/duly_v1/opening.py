"""How streams open in duly.v1: an OpenStream becomes a StreamRequest, and what was agreed becomes a StreamOpened."""

import time
from typing import TypeVar

from duly.core.backlog import takes_frames
from duly.core.types import BacklogPolicy, FusionWait, GapPolicy, StreamClass
from duly.rpc.duly_v1.tensors import chunk_of, tensor_spec
from duly.streams.clock import ClockRelation
from duly.streams.errors import CallError, InvalidTerms
from duly.streams.limits import StreamLimits
from duly.streams.ordering import OrderingPolicy
from duly.streams.stream import Stream
from duly.streams.terms import FusionAsked, StreamRequest, clock_relation
from duly.v1 import inference_pb2

_E = TypeVar("_E", StreamClass, BacklogPolicy, GapPolicy, OrderingPolicy, FusionWait)


def invalid_open(error: InvalidTerms) -> CallError:
    """Returns the error in the words of this wire, where nanoseconds are `_nano` and other names are the same."""
    field = error.field
    if field.endswith("_ns"):
        field = field.removesuffix("_ns") + "_nano"
    return CallError("INVALID_OPEN", error.said_of(field), field)


def stream_request(open_: inference_pb2.OpenStream) -> StreamRequest:
    """Returns what an OpenStream asks for. Raises InvalidTerms where a number means nothing."""
    return StreamRequest(
        model=open_.model,
        version=open_.version,
        stream_name=open_.stream_name,
        stream_class=_known(StreamClass, open_.stream_class, "stream_class"),
        backlog_policy=_known(BacklogPolicy, open_.backlog_policy, "backlog_policy"),
        backlog_frames=open_.backlog_frames,
        ordering=_known(OrderingPolicy, open_.ordering, "ordering") or OrderingPolicy.UNORDERED,
        default_budget_ns=open_.default_budget_nano,
        expected_period_ns=open_.expected_period_nano,
        outputs=open_.outputs,
        gap_policy=_known(GapPolicy, open_.gap_policy, "gap_policy"),
        variant_lowest=open_.variant_lowest,
        floor=(open_.floor.frames, open_.floor.window) if open_.HasField("floor") else None,
        clock=clock_of(open_.clock) if open_.HasField("clock") else None,
        fusion=_fusion(open_.fusion) if open_.HasField("fusion") else None,
    )


def _fusion(fusion: inference_pb2.Fusion) -> FusionAsked:
    wait = _known(FusionWait, fusion.wait, "fusion.wait") or FusionWait.NEWEST
    return FusionAsked(fusion.group, fusion.input, fusion.tolerance_nano, wait)


def single_request(request: inference_pb2.InferRequest) -> StreamRequest:
    """Returns what a single frame asks for. Raises InvalidTerms where a number means nothing."""
    return StreamRequest(
        model=request.model,
        version=request.version,
        stream_class=_known(StreamClass, request.stream_class, "stream_class"),
        backlog_policy=BacklogPolicy.ALL,
        outputs=request.outputs,
        clock=clock_of(request.clock) if request.HasField("clock") else None,
        single=True,
    )


def clock_of(estimate: inference_pb2.ClockEstimate, field: str = "clock") -> ClockRelation:
    """Returns how the clocks relate. `field`: where the estimate stands in the message. Raises InvalidTerms."""
    return clock_relation(estimate.offset_nano, estimate.uncertainty_nano, field)


def _known(kind: type[_E], number: int, field: str) -> _E | None:
    """Returns the value with that number; None: none is stated. Raises InvalidTerms where there is no such value."""
    if not number:
        return None
    try:
        return kind(number)
    except ValueError:
        raise InvalidTerms(field, f": there is no value {number}") from None


def opened(stream: Stream, limits: StreamLimits, message_bytes_max: int) -> inference_pb2.StreamResponse:
    """Returns the message that says what was agreed."""
    terms, signature, verdict = stream.terms, stream.signature, stream.verdict
    assert verdict is not None, "it is open"
    outputs = [spec for spec in signature.outputs if not stream.wanted or spec.name in stream.wanted]
    message = inference_pb2.StreamOpened(
        stream_id=stream.stream_id,
        version=stream.served.version.version,
        inputs=map(tensor_spec, signature.inputs),
        outputs=map(tensor_spec, outputs),
        variants=stream.variants[: terms.variant_rank_max + 1],
        stream_class=int(terms.stream_class),  # type: ignore[arg-type]  # equal numbers, as are those below
        backlog_policy=int(terms.backlog),  # type: ignore[arg-type]
        backlog_frames=terms.backlog_frames if takes_frames(terms.backlog) else 0,
        ordering=int(stream.asked.ordering),  # type: ignore[arg-type]
        default_budget_nano=terms.budget_ns,
        planned_latency_nano=stream.planned_one_ns(),
        utilisation=verdict.utilisation,
        frames_in_flight_max=terms.frames_in_flight_max,
        bytes_in_flight_max=limits.bytes_in_flight_max,
        message_bytes_max=message_bytes_max,
        server_time_unix_nano=time.time_ns(),
        gap_policy=int(terms.gap) if terms.gap else 0,  # type: ignore[arg-type]
        predicted_latency_nano=verdict.predicted_latency_ns,
        admission_warning="" if verdict.accepted else verdict.reason,
        chunk=chunk_of(signature, stream.wanted),
        stream_key=stream.label_key,
    )
    group = stream.fusion
    if group is not None and stream.asked.fusion is not None:
        message.fusion.group, message.fusion.input = group.asked.group, stream.asked.fusion.input
        message.fusion.tolerance_nano = group.asked.tolerance_ns
        message.fusion.wait = int(group.asked.wait)  # type: ignore[assignment]
        message.fusion_inputs_missing.extend(group.missing())
    return inference_pb2.StreamResponse(opened=message)
