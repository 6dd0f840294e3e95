"""When a lane goes down and comes back, by made-up time."""

from duly.nvml.recovery import CALM_NS, FALLS_MAX, PAUSE_NS_MAX, PAUSE_NS_MIN, Recovery

XID, LOST = "Xid 79: GPU has fallen off the bus", "GPU is lost"


def test_a_fault_takes_it_down_for_a_pause() -> None:
    lane = Recovery()
    lane.look(0, "", "")
    assert not lane.down
    lane.look(10, XID, "")
    lane.look(10 + PAUSE_NS_MIN - 1, "", "")
    assert lane.down == XID
    lane.look(10 + PAUSE_NS_MIN, "", "")
    assert not lane.down


def test_another_fault_meanwhile_makes_it_longer() -> None:
    lane = Recovery()
    lane.look(0, XID, "")
    lane.look(PAUSE_NS_MIN - 1, "Xid 48: double bit ECC error", "")
    lane.look(2 * PAUSE_NS_MIN - 2, "", "")
    assert lane.down == XID
    lane.look(2 * PAUSE_NS_MIN - 1, "", "")
    assert not lane.down


def test_it_is_down_as_long_as_its_gpu_cannot_work_and_a_pause_more() -> None:
    lane = Recovery()
    lane.look(0, "", LOST)
    lane.look(100 * PAUSE_NS_MIN, "", LOST)
    assert lane.down == LOST
    lane.look(200 * PAUSE_NS_MIN, "", "")
    assert lane.down == LOST
    lane.look(201 * PAUSE_NS_MIN, "", "")
    assert not lane.down


def test_each_time_it_goes_down_again_soon_it_pauses_longer_and_at_last_for_good() -> None:
    lane, now_ns, pauses = Recovery(), 0, []
    for _ in range(FALLS_MAX - 1):
        lane.look(now_ns, XID, "")
        began_ns = now_ns
        while lane.down:
            now_ns += PAUSE_NS_MIN
            lane.look(now_ns, "", "")
        pauses.append((now_ns - began_ns) // PAUSE_NS_MIN)
    assert pauses == [1, 2, 4, 8, 16]
    lane.look(now_ns, XID, "")
    lane.look(now_ns + 100 * PAUSE_NS_MAX, "", "")
    assert lane.down == (
        f"{XID}; it went down 6 times in a row, and is tried no more until the GPU was reset or the server is "
        "started again"
    )
    lane.look(now_ns + 101 * PAUSE_NS_MAX, "", LOST)
    lane.look(now_ns + 102 * PAUSE_NS_MAX, "", "")
    assert lane.down == XID, "it was reset, and is tried again after a pause"
    lane.look(now_ns + 102 * PAUSE_NS_MAX + PAUSE_NS_MIN, "", "")
    assert not lane.down


def test_after_a_calm_time_it_begins_with_the_shortest_pause_again() -> None:
    lane = Recovery()
    for start_ns in range(0, 20 * CALM_NS, CALM_NS + PAUSE_NS_MIN):
        lane.look(start_ns, XID, "")
        lane.look(start_ns + PAUSE_NS_MIN, "", "")
        assert not lane.down
