"""Where the tensors of a batch lie."""

from hypothesis import given
from hypothesis import strategies as st

from duly.worker.slot_layout import ALIGN_BYTES, layout


def test_rows_of_a_tensor_are_contiguous_and_tensors_begin_at_cache_lines() -> None:
    assert layout([10, 64, 1], 3) == ((0, 64, 256), 320)
    assert layout([], 3) == ((), 0)


@given(sizes=st.lists(st.integers(1, 1 << 20), min_size=1, max_size=6), batch_max=st.integers(1, 256))
def test_tensors_do_not_overlap_and_little_is_wasted(sizes: list[int], batch_max: int) -> None:
    bases, total = layout(sizes, batch_max)
    ends = [*bases[1:], total]
    for base, size, end in zip(bases, sizes, ends, strict=True):
        assert base % ALIGN_BYTES == 0
        assert 0 <= end - (base + batch_max * size) < ALIGN_BYTES
