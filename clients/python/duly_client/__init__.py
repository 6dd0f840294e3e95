"""The Python client of duly, a streaming inference server for real-time systems.

    async with Client("127.0.0.1:8500") as client:
        async with client.stream("yolo", budget_ms=100) as stream:
            await stream.send(picture)
            async for outcome in stream:
                ...

Every frame sent is answered by exactly one outcome. `BlockingClient` is for programs without asyncio.
"""

# isort: split
from duly_client.forked import ForkedError  # it comes before all that imports gRPC

# isort: split
from duly_client.bfloat16 import BFLOAT16, to_bfloat16, to_float32
from duly_client.blocking import BlockingClient, BlockingStream
from duly_client.client import Client
from duly_client.clock import ClockEstimate
from duly_client.credentials import Tls
from duly_client.errors import (
    ActivationRefused,
    ClientTooSlow,
    DulyError,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    NotAllowed,
    ProtocolError,
    ServerFault,
    ServerUnavailable,
    StreamRefused,
    TrialRefused,
)
from duly_client.feedback import Feedback, FeedbackResult, FeedbackStatus
from duly_client.stream import Stream
from duly_client.types import Advice, Chunk, FusedFrame, Fusion, Outcome, Status, StreamTerms, TensorSpec, Timing

__all__ = [
    "BFLOAT16",
    "ActivationRefused",
    "Advice",
    "BlockingClient",
    "BlockingStream",
    "Chunk",
    "Client",
    "ClientTooSlow",
    "ClockEstimate",
    "DulyError",
    "Feedback",
    "FeedbackResult",
    "FeedbackStatus",
    "ForkedError",
    "FusedFrame",
    "Fusion",
    "InvalidRequest",
    "LoadFailed",
    "ModelNotFound",
    "ModelNotReady",
    "NotAllowed",
    "Outcome",
    "ProtocolError",
    "ServerFault",
    "ServerUnavailable",
    "Status",
    "Stream",
    "StreamRefused",
    "StreamTerms",
    "TensorSpec",
    "Timing",
    "Tls",
    "TrialRefused",
    "to_bfloat16",
    "to_float32",
]
