"""What streams are told beside outcomes, in the words of duly.v1."""

from duly.streams.outbox import Advised, ClockAsked
from duly.streams.stream import Stream
from duly.v1 import inference_pb2


def told(stream: Stream, notice: Advised | ClockAsked) -> inference_pb2.StreamResponse:
    """Returns the message for a notice, as it is sent now."""
    match notice:
        case Advised():
            advice = inference_pb2.StreamAdvice(
                kind=int(notice.advice),  # type: ignore[arg-type]  # equal numbers
                period_nano=notice.period_ns,
                version=notice.version,
                reason=notice.reason,
            )
            return inference_pb2.StreamResponse(advice=advice)
        case ClockAsked():
            pong = inference_pb2.ClockPong(
                ping_id=notice.ping_id,
                client_send_unix_nano=notice.client_send_unix_ns,
                server_receive_unix_nano=notice.received_unix_ns,
                server_send_unix_nano=stream.wall.now_ns(),
            )
            return inference_pb2.StreamResponse(clock_pong=pong)
