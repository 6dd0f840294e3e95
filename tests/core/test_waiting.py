"""WaitingFrames against a plain sorted list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.core.types import Frame, StreamClass
from duly.core.waiting import QueuedFrame, WaitingFrames

# Few distinct deadlines, so that ties are common.
frames = st.lists(st.tuples(st.integers(0, 8), st.sampled_from(StreamClass)), max_size=40).map(
    lambda specs: [QueuedFrame(Frame(seq, 1, seq, "detect/1", due), cls, 0) for seq, (due, cls) in enumerate(specs)]
)


def order(queued: QueuedFrame) -> tuple[int, int, int]:
    return queued.stream_class, queued.frame.deadline_ns, queued.frame.seq


@given(arriving=frames, data=st.data())
def test_behaves_as_a_sorted_list(arriving: list[QueuedFrame], data: st.DataObject) -> None:
    queue = WaitingFrames()
    model: list[QueuedFrame] = []
    for frame in data.draw(st.permutations(arriving)):
        queue.add(frame)
        model = sorted([*model, frame], key=order)
        if data.draw(st.booleans(), label="remove one"):
            gone = data.draw(st.sampled_from(model), label="removed")
            queue.remove(gone)
            model.remove(gone)
        limit_ns = data.draw(st.integers(-1, 10), label="due before")
        assert list(queue) == model
        assert queue.count == len(model)
        for stream_class in StreamClass:
            entries = [(f.frame.deadline_ns, f.frame.seq, f) for f in model if f.stream_class is stream_class]
            assert queue.by_class[stream_class] == entries
        assert queue.due_first_ns() == min((queued.frame.deadline_ns for queued in model), default=None)
        assert queue.due_before(limit_ns) == [queued for queued in model if queued.frame.deadline_ns < limit_ns]


@given(arriving=frames)
def test_refuses_to_remove_what_does_not_wait(arriving: list[QueuedFrame]) -> None:
    queue = WaitingFrames()
    for frame in arriving:
        queue.add(frame)
    stranger = QueuedFrame(Frame(len(arriving), 1, 1, "detect/1", 4), StreamClass.STANDARD, 0)
    with pytest.raises(KeyError):
        queue.remove(stranger)
    for frame in arriving:
        queue.remove(frame)
        with pytest.raises(KeyError):
            queue.remove(frame)
    assert queue.count == 0


@given(arriving=frames, data=st.data())
def test_takes_a_batch_out_at_once(arriving: list[QueuedFrame], data: st.DataObject) -> None:
    queue = WaitingFrames()
    for frame in arriving:
        queue.add(frame)
    batch = [frame for frame in list(queue) if data.draw(st.booleans())]
    if batch:
        queue.take(batch)
    assert list(queue) == [frame for frame in sorted(arriving, key=order) if frame not in batch]
    assert queue.count == len(arriving) - len(batch)
