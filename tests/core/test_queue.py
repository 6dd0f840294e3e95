"""WaitingFrames against a plain sorted list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duly.core.types import Frame, StreamClass
from duly.core.waiting import WaitingFrames

# Few distinct deadlines, so that ties are common.
frames = st.lists(st.tuples(st.integers(0, 8), st.sampled_from(StreamClass)), max_size=40).map(
    lambda specs: [Frame(seq, 1, seq, "detect/1", due, stream_class=cls) for seq, (due, cls) in enumerate(specs)]
)


def order(frame: Frame) -> tuple[int, int, int]:
    return frame.stream_class, frame.deadline_ns, frame.seq


@given(arriving=frames, data=st.data())
def test_behaves_as_a_sorted_list(arriving: list[Frame], data: st.DataObject) -> None:
    queue = WaitingFrames()
    model: list[Frame] = []
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
            entries = [(f.deadline_ns, f.seq, f) for f in model if f.stream_class is stream_class]
            assert queue.by_class[stream_class] == entries
        assert queue.deadline_first_ns() == min((frame.deadline_ns for frame in model), default=None)
        assert queue.due_before(limit_ns) == [frame for frame in model if frame.deadline_ns < limit_ns]


@given(arriving=frames)
def test_refuses_to_remove_what_does_not_wait(arriving: list[Frame]) -> None:
    queue = WaitingFrames()
    for frame in arriving:
        queue.add(frame)
    stranger = Frame(len(arriving), 1, 1, "detect/1", 4)
    with pytest.raises(KeyError):
        queue.remove(stranger)
    for frame in arriving:
        queue.remove(frame)
        with pytest.raises(KeyError):
            queue.remove(frame)
    assert queue.count == 0


@given(arriving=frames, data=st.data())
def test_takes_a_batch_out_at_once(arriving: list[Frame], data: st.DataObject) -> None:
    queue = WaitingFrames()
    for frame in arriving:
        queue.add(frame)
    batch = [frame for frame in list(queue) if data.draw(st.booleans())]
    if batch:
        queue.take(batch)
    assert list(queue) == [frame for frame in sorted(arriving, key=order) if frame not in batch]
    assert queue.count == len(arriving) - len(batch)
