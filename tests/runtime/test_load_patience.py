"""How long a load is waited for while something is compiled."""

from duly.runtime.load_patience import LOOK_SECONDS, STILL_SECONDS_MAX, LoadPatience


def patience() -> LoadPatience:
    return LoadPatience(60.0, "load_timeout_s", 3600.0, 1000.0)


def test_a_load_has_its_time() -> None:
    load = patience()
    assert load.look_s(1010.0) == 50.0
    assert load.over(1059.0, 1) == ""
    assert load.over(1060.0, 2) == "not ready after 60 s (load_timeout_s)"


def test_compiling_does_not_count() -> None:
    load = patience()
    load.note(builds=True, waits=False, now_s=1050.0)
    assert load.look_s(1050.0) == LOOK_SECONDS
    for step in range(300):
        assert load.over(1050.0 + 10 * step, cpu_ns=step) == ""
    load.note(builds=False, waits=False, now_s=4050.0)
    assert load.look_s(4050.0) == 10.0
    assert load.over(4059.0, 1) == ""
    assert load.over(4060.0, 1) == "not ready after 60 s (load_timeout_s)"


def test_compiling_has_a_time_of_its_own() -> None:
    load = patience()
    load.note(builds=True, waits=False, now_s=1000.0)
    assert load.over(4599.0, 1) == ""
    assert load.over(4600.0, 2) == "not compiled after 3600 s (engine_build_timeout_s)"


def test_a_compiler_that_computes_nothing_hangs() -> None:
    load = patience()
    load.note(builds=True, waits=False, now_s=1000.0)
    assert load.over(1001.0, 7) == ""
    assert load.over(1001.0 + STILL_SECONDS_MAX, 7) == ""
    assert load.over(1002.0 + STILL_SECONDS_MAX, 7) == "compiles without computing anything for 300 s: it hangs"


def test_where_the_system_does_not_say_the_time_out_alone_counts() -> None:
    load = patience()
    load.note(builds=True, waits=False, now_s=1000.0)
    assert load.over(3000.0, None) == ""


def test_waiting_for_the_server_does_not_count() -> None:
    load = patience()
    load.note(builds=False, waits=True, now_s=1001.0)
    assert load.over(9000.0, 1) == ""
    load.note(builds=False, waits=False, now_s=9000.0)
    assert load.look_s(9000.0) == 59.0
