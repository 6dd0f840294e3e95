"""Frames as streams hand them to the driver."""

from collections.abc import Callable

from duly.core.types import Frame, StreamClass
from duly.models.spec import Signature
from duly.runtime.driver import Driver
from duly.runtime.held_frames import HeldFrame, InputData

SIGNATURE = Signature(inputs=(), outputs=(), batch_sizes=(1,), any_size=True, stateful=False)


def take(
    driver: Driver,
    clock: Callable[[], int],
    stream_id: int,
    frame_id: int,
    model: str,
    budget_ns: int,
    data: bytes,
    shape: tuple[int, ...] = (1,),
    last: bool = False,
) -> None:
    """Gives the driver a frame that arrives now. `last`: whether it is said to be the last of its stream."""
    now_ns = clock()
    frame = Frame(next(driver.seqs), stream_id, frame_id, model, now_ns + budget_ns)
    payload = [InputData(0, shape, data)]
    held = HeldFrame(frame, StreamClass.STANDARD, SIGNATURE, now_ns, 0, payload=payload, size_bytes=len(data))
    held.last = last
    driver.take_frame(held)
