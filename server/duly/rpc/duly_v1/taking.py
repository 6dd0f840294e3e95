"""Gives frames that have come in a message to their stream."""

from duly.core.fates import DOES_NOT_FIT
from duly.rpc.duly_v1.codec import ParsedFrame, StreamCodec
from duly.rpc.duly_v1.common_frames import FrameAt
from duly.streams.errors import CallError, InvalidFrame
from duly.streams.stream import Stream


def take(
    stream: Stream, codec: StreamCodec, message: bytes, frame: FrameAt | ParsedFrame, received_unix_ns: int
) -> None:
    """Takes a frame of the message, whose outcome will be sent whatever is wrong with it. Raises CallError where its id
    is used up.
    """
    frame_id, captured_unix_ns, budget_ns, must_run, data = frame
    try:
        held = stream.take(frame_id, captured_unix_ns, budget_ns, must_run, received_unix_ns)
    except CallError as error:
        error.field = f"frames.frames.{error.field}"  # its path in the request
        raise
    if held is not None:
        try:
            payload, size_bytes = codec.payload(held.signature, message, data)
        except InvalidFrame as error:
            stream.refuse(held, DOES_NOT_FIT, str(error))
        else:
            stream.submit(held, payload, size_bytes)
