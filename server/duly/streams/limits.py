"""What clients may use, at each level: one stream, one principal with all its streams, and the server as a whole.

Every frame that is not answered is counted at all three levels, by its bytes of payload. Whatever is over a limit is
refused with words that name the limit. What other clients hold is never touched.
"""

from dataclasses import dataclass

from duly.models.sizes import SizeLimits
from duly.streams.quota import Meter
from duly.streams.rights import NO_LIMIT


@dataclass(frozen=True, slots=True)
class StreamLimits:
    frames_in_flight_max: int
    bytes_in_flight_max: int
    budget_ns_max: int


@dataclass(frozen=True, slots=True)
class PrincipalLimits:
    """Limits of all streams of one principal together; NO_LIMIT where the server's own are enough."""

    streams_max: int = NO_LIMIT
    bytes_in_flight_max: int = NO_LIMIT


@dataclass(frozen=True, slots=True)
class ServerLimits:
    streams_max: int
    bytes_in_flight_max: int
    shared_bytes_max: int = 0
    """Memory that is shared with clients on this machine, of all streams together."""


@dataclass(frozen=True, slots=True)
class CriticalLimits:
    """Limits of CRITICAL streams whose principals no credential proves, all of them together. Anybody may say that a
    stream is CRITICAL, and what is promised to such streams is taken from all others.
    """

    streams_max: int
    share_max: float
    """The share of the fullest lane that CRITICAL streams may take, those of proven principals included."""


@dataclass(frozen=True, slots=True)
class Limits:
    stream: StreamLimits
    principal: PrincipalLimits
    server: ServerLimits
    unproven_critical: CriticalLimits

    @property
    def frame(self) -> SizeLimits:
        """What a single frame may have, whatever else is unanswered."""
        return SizeLimits(
            bytes_in_flight_max=self.stream.bytes_in_flight_max,
            payload_bytes_max=self.server.bytes_in_flight_max,
            principal_bytes_in_flight_max=self.principal.bytes_in_flight_max,
        )


class PrincipalUse:
    """What one principal uses now. A principal that uses nothing need not be remembered."""

    __slots__ = ("bytes", "meter", "shared_bytes", "streams")

    def __init__(self) -> None:
        self.streams = 0
        """Streams that are open or being opened, and single frames under way."""
        self.bytes = 0
        """Bytes of payload that are unanswered."""
        self.shared_bytes = 0
        """Memory that is shared with its clients on this machine."""
        self.meter: Meter | None = None
        """What holds the principal to its quota; None: its rates have no limit."""
