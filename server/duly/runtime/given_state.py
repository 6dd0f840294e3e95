"""Memory of the server's in which states of streams go from one worker to another (`worker/handed_state`)."""

import os
from collections.abc import Sequence

from duly.worker import handed_state
from duly.worker.handed_state import Place


class GivenState:
    """What one worker was asked to give, or has given: memory with the states of some streams."""

    def __init__(self, stream_ids: Sequence[int], state_bytes: int) -> None:
        """`state_bytes`: those of one stream. Raises OSError where there is no room for them."""
        self.stream_ids = list(stream_ids)
        self.size_bytes = len(stream_ids) * state_bytes
        self.places: list[Place] = [(stream_id, at * state_bytes) for at, stream_id in enumerate(stream_ids)]
        """The streams whose states are, or are to be, in the memory."""
        self.fd = handed_state.new_memory(self.size_bytes)

    def answered(self, there: Sequence[bool]) -> None:
        """Notes which states are there, and lets nobody change them. Raises OSError where that cannot be."""
        self.places = [place for place, is_there in zip(self.places, there, strict=True) if is_there]
        handed_state.seal(self.fd)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
