"""When a process counts as lost: by processor time without a sign of life, and by nothing else."""

from duly.realtime.silence import BUSY_NS, Silence


def test_who_gives_signs_is_never_lost() -> None:
    silence = Silence()
    for cpu_ns in range(0, 10 * BUSY_NS, BUSY_NS // 2):
        assert not silence.look(cpu_ns)
        silence.heard()


def test_who_waits_is_never_lost_however_long() -> None:
    silence = Silence()
    assert not any(silence.look(5) for _ in range(1_000))


def test_who_is_busy_without_a_sign_is_lost() -> None:
    silence = Silence()
    silence.heard()
    assert not silence.look(7)
    assert not silence.look(7 + BUSY_NS)
    assert silence.look(8 + BUSY_NS)


def test_what_was_used_before_a_sign_does_not_count() -> None:
    silence = Silence()
    assert not silence.look(0)
    silence.heard()
    assert not silence.look(5 * BUSY_NS)
