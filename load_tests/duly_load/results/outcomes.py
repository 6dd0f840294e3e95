"""What became of a frame, as the one who sent it saw it."""

from enum import IntEnum

from duly.v1 import inference_pb2

OWN_KINDS_FROM = 100
"""Kinds that only a sender can know are numbered from here on, so that the protocol may get further ones."""


class FrameOutcome(IntEnum):
    """The first nine are the server's own words with the protocol's numbers, but for in time and late, which the
    sender's clock decides; the others are what only a sender can know.
    """

    ON_TIME = inference_pb2.OUTCOME_STATUS_ON_TIME
    LATE = inference_pb2.OUTCOME_STATUS_LATE
    EXPIRED = inference_pb2.OUTCOME_STATUS_EXPIRED
    SUPERSEDED = inference_pb2.OUTCOME_STATUS_SUPERSEDED
    SHED = inference_pb2.OUTCOME_STATUS_SHED
    SKIPPED = inference_pb2.OUTCOME_STATUS_SKIPPED
    INVALID = inference_pb2.OUTCOME_STATUS_INVALID
    CANCELLED = inference_pb2.OUTCOME_STATUS_CANCELLED
    FAILED = inference_pb2.OUTCOME_STATUS_FAILED
    REFUSED = OWN_KINDS_FROM
    """The frame was never sent, because its stream was not let in."""
    UNANSWERED = OWN_KINDS_FROM + 1
    """The frame was sent, and nothing had come when the run was over."""
    UNSENT = OWN_KINDS_FROM + 2
    """Its stream had ended, or took no more, before it could be sent."""
