"""The arithmetic of sizes: what is settled fits every limit, and what is refused or lowered names what would help."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duly.models.sizes import (
    ENCODED_BYTES_MAX,
    INPUT_BYTES_MAX,
    OUTPUT_BYTES_MAX,
    WIRE_BYTES_MAX,
    Need,
    SizeError,
    SizeLimits,
    Sizes,
    fields_bytes,
    settle,
)

MIB = 1 << 20
MEMORY = 64 << 30
Y = [Need("y", 4)]


def settled(
    inputs: Sequence[Need],
    outputs: Sequence[Need] = Y,
    batch_max: int = 1,
    memory_bytes: int = MEMORY,
    **limits: int,
) -> Sizes:
    return settle(inputs, outputs, batch_max, 2, SizeLimits(**limits), memory_bytes)


def refused(inputs: Sequence[Need], outputs: Sequence[Need] = Y, batch_max: int = 1, **limits: int) -> str:
    with pytest.raises(SizeError) as error:
        settled(inputs, outputs, batch_max, **limits)
    return str(error.value)


# ---- fixed sizes: they fit or they do not ----


def test_a_fixed_frame_gets_its_own_size_and_no_note() -> None:
    assert settled([Need("x", 1000), Need("m", 24)], [Need("y", 7)]) == Sizes((1000, 24), (7,))


def test_a_fixed_frame_that_no_stream_may_hold_names_each_setting_to_raise() -> None:
    frame = 70 * MIB
    assert refused([Need("x", frame)]) == (
        f"a frame has {frame:,} bytes, at most {64 * MIB:,} can be taken: raise bytes_in_flight_max "
        f"(--bytes-in-flight-max) to at least {frame}"
    )
    text = refused([Need("x", 60), Need("w", 50)], bytes_in_flight_max=100, payload_bytes_max=109)
    assert text.endswith(
        "raise bytes_in_flight_max (--bytes-in-flight-max) and payload_bytes_max (--payload-bytes-max) to at least 110"
    )
    text = refused([Need("x", 60)], principal_bytes_in_flight_max=50)
    assert text.endswith("raise principal_bytes_in_flight_max (--principal-bytes-in-flight-max) to at least 60")


def test_the_advised_value_is_enough_and_one_less_is_not() -> None:
    frame = 70 * MIB
    assert settled([Need("x", frame)], bytes_in_flight_max=frame).inputs == (frame,)
    assert refused([Need("x", frame)], bytes_in_flight_max=frame - 1)


def test_no_setting_is_advised_where_none_helps() -> None:
    assert refused([Need("x", 3 << 30)]).endswith(f"no message holds more than {WIRE_BYTES_MAX - fields_bytes('x'):,}")
    text = refused([Need("x", 4)], [Need("y", 3 << 30)])
    assert "no message holds more than" in text
    assert "[[output]]" in text


def test_a_server_that_listens_reads_no_larger_messages_than_at_its_start() -> None:
    assert "restart the server" in refused([Need("x", 5 * MIB)], message_bytes_max=4 * MIB)
    (room,) = settled([Need("x")], message_bytes_max=4 * MIB).inputs
    assert room == 4 * MIB - fields_bytes("x")


def test_batches_must_fit_the_memory_and_the_largest_that_does_is_named() -> None:
    inputs = [Need("x", 20 * MIB)]
    with pytest.raises(SizeError, match=r"set batch_sizes to at most \[25\]") as error:
        settled(inputs, batch_max=256, memory_bytes=1 << 30)
    assert f"{2 * 256 * (20 * MIB + 4):,} bytes" in str(error.value)
    assert settled(inputs, batch_max=25, memory_bytes=1 << 30).inputs == (20 * MIB,)
    with pytest.raises(SizeError, match="smaller tensors"):
        settled(inputs, memory_bytes=20 * MIB)


def test_limits_that_hold_too_few_frames_are_noted() -> None:
    (note,) = settled([Need("x", 40 * MIB)]).notes
    assert note.endswith(f"raise bytes_in_flight_max (--bytes-in-flight-max) to at least {80 * MIB}")
    (note,) = settled([Need("x", 20 * MIB)], batch_max=64).notes
    assert note.startswith("batches of 64 frames")
    assert f"to at least {64 * 20 * MIB}, or lower batch_sizes" in note


# ---- open sizes: they get what there is ----


def test_what_is_open_gets_the_usual_room() -> None:
    sizes = settled([Need("x"), Need("picture", encoded=True)], [Need("y")])
    assert sizes.inputs == (INPUT_BYTES_MAX, ENCODED_BYTES_MAX)
    assert sizes.outputs[0] >= OUTPUT_BYTES_MAX
    assert not sizes.notes


def test_a_frame_that_may_not_become_so_large_is_capped_and_noted() -> None:
    sizes = settled([Need("x", None, 100 * MIB), Need("m", 8)])
    assert sizes.inputs == (64 * MIB - 8, 8)
    (note,) = sizes.notes
    assert f"more than {64 * MIB:,} are INVALID" in note
    assert f"raise bytes_in_flight_max (--bytes-in-flight-max) to at least {100 * MIB + 8}" in note
    raised = settled([Need("x", None, 100 * MIB), Need("m", 8)], bytes_in_flight_max=100 * MIB + 8)
    assert (raised.inputs, raised.notes) == ((100 * MIB, 8), ())


def test_stated_sizes_that_fit_one_by_one_stay_as_frames_need_not_fill_all_inputs() -> None:
    sizes = settled([Need("a", None, 40 * MIB), Need("b", None, 40 * MIB)])
    assert sizes.inputs == (40 * MIB, 40 * MIB)
    assert f"to at least {80 * MIB}" in sizes.notes[0]


def test_many_inputs_share_what_a_frame_may_have() -> None:
    sizes = settled([Need(f"f{index}") for index in range(500)])
    assert set(sizes.inputs) == {64 * MIB // 500}
    (note,) = sizes.notes
    assert "set bytes_max under [[input]]" in note
    one = settled([Need("big", None, 30 * MIB), *(Need(f"f{index}") for index in range(499))])
    assert one.inputs[0] == 30 * MIB
    assert sum(one.inputs) <= 64 * MIB


def test_an_output_with_the_extents_of_an_input_has_room_for_all_that_comes_in() -> None:
    sizes = settled([Need("x", None, 60 * MIB)], [Need("y", per_input_byte=(0, 20.0)), Need("z", 4)])
    assert sizes.outputs[0] > 20 * 60 * MIB


def test_a_stated_output_is_kept_and_lowered_only_with_a_note() -> None:
    assert settled([Need("x", 4)], [Need("y", None, 500 * MIB)]).outputs == (500 * MIB,)
    sizes = settled([Need("x", 4)], [Need("y", None, 5 << 30)])
    assert sizes.outputs[0] == WIRE_BYTES_MAX - fields_bytes("y")
    assert "no message holds more" in sizes.notes[0]
    sizes = settled([Need("x", 4)], [Need("y", None, 500 * MIB)], batch_max=8, memory_bytes=1 << 30)
    assert 0 < sizes.outputs[0] <= 64 * MIB
    assert "lower batch_sizes" in sizes.notes[0]


def test_little_memory_costs_the_outputs_of_unknown_size_first() -> None:
    sizes = settled([Need("x")], [Need("y")], batch_max=8, memory_bytes=512 * MIB)
    assert (sizes.inputs[0], sizes.notes) == (INPUT_BYTES_MAX, ())
    assert 0 < sizes.outputs[0] <= 8 * MIB
    sizes = settled([Need("x")], [Need("y")], batch_max=8, memory_bytes=128 * MIB)
    assert 1 * MIB < sizes.inputs[0] < INPUT_BYTES_MAX
    assert "lower batch_sizes" in sizes.notes[0]


# ---- any of it ----

_open = st.builds(
    Need,
    st.text("ab", max_size=9),
    st.just(None),
    st.sampled_from([0, 0, 1, 999, 70 * MIB, 3 << 30]),
    st.booleans(),
    st.none(),
)
_fixed = st.builds(Need, st.text("ab", max_size=9), st.sampled_from([0, 1, 4096, 30 * MIB, 1 << 30]))
_needs = st.lists(st.one_of(_open, _fixed), min_size=1, max_size=6)
_limits = st.builds(
    SizeLimits,
    bytes_in_flight_max=st.sampled_from([100, 10_000, 64 * MIB, 1 << 40]),
    payload_bytes_max=st.sampled_from([5000, 1 << 30, 1 << 40]),
    principal_bytes_in_flight_max=st.sampled_from([0, 0, 300, 1 << 28]),
    message_bytes_max=st.sampled_from([0, 0, 4 * MIB, WIRE_BYTES_MAX]),
)


@settings(max_examples=300, deadline=None)
@given(_needs, _needs, st.integers(1, 256), _limits, st.sampled_from([1 << 28, 1 << 32, 1 << 36]))
def test_what_is_settled_fits_every_limit(
    inputs: list[Need], outputs: list[Need], batch_max: int, limits: SizeLimits, memory_bytes: int
) -> None:
    try:
        sizes = settle(inputs, outputs, batch_max, 2, limits, memory_bytes)
    except SizeError:
        return
    message = limits.message_bytes_max or WIRE_BYTES_MAX
    fields = fields_bytes(need.name for need in inputs)
    fixed = sum(need.fixed_bytes or 0 for need in inputs)
    for needs, rooms in ((inputs, sizes.inputs), (outputs, sizes.outputs)):
        assert len(needs) == len(rooms)
        for need, room in zip(needs, rooms, strict=True):
            assert room == need.fixed_bytes if need.fixed_bytes is not None else room >= 1
            assert room <= (need.stated_bytes or room)
    for need, room in zip(inputs, sizes.inputs, strict=True):
        frame = fixed + (room if need.fixed_bytes is None else 0)
        assert frame <= limits.frame_bytes_max
        assert frame + fields <= message
    for need, room in zip(outputs, sizes.outputs, strict=True):
        of_outputs = sum(other.fixed_bytes or 0 for other in outputs) + (room if need.fixed_bytes is None else 0)
        assert of_outputs + fields_bytes(need.name for need in outputs) <= WIRE_BYTES_MAX
    tensors = len(inputs) + len(outputs)
    assert 2 * batch_max * (sum(sizes.inputs) + sum(sizes.outputs) - tensors) <= memory_bytes
    if not any(need.stated_bytes for need in inputs) and any(need.fixed_bytes is None for need in inputs):
        usual = all(
            room >= (ENCODED_BYTES_MAX if need.encoded else INPUT_BYTES_MAX)
            for need, room in zip(inputs, sizes.inputs, strict=True)
            if need.fixed_bytes is None
        )
        assert usual or sizes.notes, "less than is usual is said"
    assert sizes == settle(inputs, outputs, batch_max, 2, limits, memory_bytes)
