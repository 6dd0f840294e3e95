"""What the quality of service of a topic means for a stream.

| topic | stream |
| --- | --- |
| history KEEP_LAST, depth 1 | backlog LATEST |
| history KEEP_LAST, depth n | backlog KEEP_LAST n |
| history KEEP_ALL | backlog ALL |
| deadline | budget, where none is stated: the result is there before the next message is due |
"""

from dataclasses import dataclass
from typing import Literal

History = Literal["keep_last", "keep_all"]
Reliability = Literal["reliable", "best_effort"]
Durability = Literal["volatile", "transient_local"]

READER_DEPTH_MIN = 10
"""Messages that the reader of a topic holds at least until the node takes them, so that those that newer ones push
aside are answered as SUPERSEDED and do not vanish in the middleware."""
WAITING_MAX = 256
"""Messages of one stream that wait in the node for the transport, with KEEP_ALL; further ones are SHED."""


@dataclass(frozen=True, slots=True)
class Qos:
    """The quality of service that a topic is subscribed with."""

    history: History = "keep_last"
    depth: int = 1
    reliability: Reliability = "reliable"
    durability: Durability = "volatile"
    deadline_ms: float | None = None
    """The longest time between two messages that the publisher promises; None: it promises nothing."""

    @property
    def backlog(self) -> tuple[Literal["LATEST", "KEEP_LAST", "ALL"], int]:
        """The backlog policy, and with KEEP_LAST how many frames wait; else 0."""
        if self.history == "keep_all":
            return "ALL", 0
        return ("LATEST", 0) if self.depth == 1 else ("KEEP_LAST", self.depth)

    @property
    def waiting_max(self) -> int:
        """How many messages wait in the node."""
        return WAITING_MAX if self.history == "keep_all" else self.depth

    @property
    def reader_depth(self) -> int:
        """The depth of the topic's reader."""
        return max(self.depth, READER_DEPTH_MIN)
