"""Outcomes as messages of protobuf, field by field: what the bytes that the server writes must mean."""

from collections.abc import Sequence

from duly.core.fates import RESULTS
from duly.models.spec import Signature
from duly.rpc.duly_v1.tensors import DATATYPE
from duly.runtime.outcome import FusedOutcome, Outcome
from duly.v1 import inference_pb2 as pb


def add_outcome(
    batch: pb.OutcomeBatch,
    outcome: Outcome,
    now_ns: int,
    signature: Signature,
    wanted: Sequence[str],
    delay_ns: int = 0,
) -> None:
    """Appends `outcome`, which is sent at `now_ns`. `wanted`: names of outputs; empty: all. `delay_ns`: the planned
    delay, which is told where the model gives action chunks.
    """
    held, run = outcome.held, outcome.run
    frame, received_ns = held.frame, held.received_ns
    message = batch.outcomes.add(
        frame_id=frame.frame_id,
        status=int(outcome.status),  # type: ignore[arg-type]  # equal numbers
        slack_nano=frame.deadline_ns - now_ns,
        reason=outcome.reason,
    )
    timing = message.timing
    timing.received_unix_nano = held.received_unix_ns
    timing.sent_nano = now_ns - received_ns
    if held.clock_uncertainty_ns:
        timing.capture_to_receipt_nano = held.capture_to_receipt_ns
        timing.clock_uncertainty_nano = held.clock_uncertainty_ns
    if run is not None:
        ran = run.batch
        message.version = ran.model.rpartition("/")[2]
        message.variant = ran.variant
        message.batch_size = len(ran.frames)
        message.guards.extend((run.guards or {}).get(frame.seq, ()))
        timing.dispatched_nano = run.dispatched_ns - received_ns
        if run.started_ns:
            timing.started_nano = run.started_ns - received_ns
            timing.finished_nano = run.finished_ns - received_ns
    if outcome.outputs is not None and outcome.status in RESULTS:
        for index, shape, data in outcome.outputs:
            spec = signature.outputs[index]
            if not wanted or spec.name in wanted:
                message.outputs.add(name=spec.name, datatype=DATATYPE[spec.datatype], shape=shape, data=data)
                if signature.chunk is not None and signature.chunk.output == spec.name:
                    chunk = message.chunk
                    chunk.output, chunk.t0_nano, chunk.dt_nano = spec.name, signature.chunk.t0_ns, signature.chunk.dt_ns
                    chunk.horizon = shape[0] if shape else 0
    if signature.chunk is not None and (not wanted or signature.chunk.output in wanted):
        message.planned_delay_nano = delay_ns
    if isinstance(outcome, FusedOutcome):
        for input_, frame_id, captured_after_ns in outcome.partners:
            message.fused.add(input=input_, frame_id=frame_id, capture_offset_nano=captured_after_ns)
