"""What is settled when a model is loaded holds on the whole way of a frame: if the load passes, no layer refuses a
frame of the largest size that it allows."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from duly.core.types import OutcomeStatus
from duly.models.sizes import Need, SizeError, SizeLimits, settle
from duly.models.spec import Signature, TensorSpec
from duly.rpc.duly_v1.codec import FrameReader
from duly.rpc.server import message_limit
from duly.streams.limits import CriticalLimits, Limits, PrincipalLimits, ServerLimits, StreamLimits
from duly.v1 import inference_pb2, tensor_pb2
from duly.worker import channel
from duly.worker.slot_layout import layout
from tests.streams.bench import MS, Bench, written

_sizes = st.integers(0, 3000)
_input = st.tuples(st.booleans(), _sizes)
"""Whether its size is open, and what it has or states."""


def _specs(inputs: Sequence[tuple[bool, int]], rooms: Sequence[int]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=f"input{index}" * 9, datatype="UINT8", shape=(-1,) if open_ else (size,), bytes_max=rooms[index]
        )
        for index, (open_, size) in enumerate(inputs)
    )


@settings(max_examples=60, deadline=None)
@given(
    inputs=st.lists(_input, min_size=1, max_size=5),
    stream=st.integers(1, 10_000),
    server=st.integers(1, 10_000),
    principal=st.one_of(st.just(0), st.integers(1, 10_000)),
    batch_max=st.integers(1, 4),
    full=st.integers(0, 4),
)
async def test_a_frame_of_the_largest_size_is_taken_by_every_layer(
    inputs: list[tuple[bool, int]], stream: int, server: int, principal: int, batch_max: int, full: int
) -> None:
    limits = Limits(
        StreamLimits(64, stream, 60_000 * MS),
        PrincipalLimits(0, principal),
        ServerLimits(8, server),
        CriticalLimits(8, 1.0),
    )
    names = [spec.name for spec in _specs(inputs, [0] * len(inputs))]
    needs = [
        Need(name, None, size) if open_ else Need(name, size) for name, (open_, size) in zip(names, inputs, strict=True)
    ]
    try:
        rooms = settle(needs, [Need("y", 4)], batch_max, channel.SLOTS, limits.frame, 1 << 30).inputs
    except SizeError:
        smallest = sum(max(size, 0) if not open_ else 1 for open_, size in inputs)
        assert smallest > limits.frame.frame_bytes_max
        return
    specs = _specs(inputs, rooms)
    signature = Signature(
        inputs=specs,
        outputs=(TensorSpec(name="y", datatype="UINT8", shape=(4,), bytes_max=4),),
        batch_sizes=(batch_max,),
        any_size=True,
        stateful=False,
    )
    # One input of open size is as large as it may be; the others take what is left of the frame.
    left = limits.frame.frame_bytes_max - sum(size for open_, size in inputs if not open_)
    frame = inference_pb2.Frame(frame_id=1)
    order = sorted(range(len(inputs)), key=lambda index: index != full % len(inputs))
    sizes = [size for _, size in inputs]
    for index in order:
        if inputs[index][0]:
            sizes[index] = min(left, rooms[index])
            left -= sizes[index]
    for name, size in zip(names, sizes, strict=True):
        frame.tensors.add(name=name, datatype=tensor_pb2.DATA_TYPE_UINT8, shape=[size], data=bytes(size))

    request = inference_pb2.StreamRequest(frames=inference_pb2.FrameBatch(frames=[frame]))
    needed = limits.frame.message_bytes(specs)
    assert request.ByteSize() <= needed <= message_limit(needed)
    later = SizeLimits(**limits.frame.model_dump() | {"message_bytes_max": message_limit(needed)})
    assert settle(needs, [Need("y", 4)], batch_max, channel.SLOTS, later, 1 << 30).inputs == rooms, "a replaced worker"

    payload, size_bytes = FrameReader(signature).payload(frame)
    assert size_bytes == sum(sizes)
    bench = Bench(limits)
    opened = bench.open()
    held = opened.take(1, 0, 0, False, 0)
    assert held is not None
    opened.submit(held, payload, size_bytes)
    bench.driver._admit()
    bench.end_batch()
    (outcome,) = await written(opened)
    assert (outcome.status, outcome.reason) == (OutcomeStatus.ON_TIME, "")

    bases, area_bytes = layout(rooms, batch_max)
    for base, room, size in zip(bases, rooms, sizes, strict=True):
        assert size <= room
        assert base + batch_max * room <= area_bytes
