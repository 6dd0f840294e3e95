"""Log lines: their shape, their level, and that a fault in every frame does not drown them."""

import io
import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from duly.telemetry import KEYS_MAX, LINES_PER_SECOND_MAX, RateLimit, configure_logging

S = 1_000_000_000


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now_ns = 7 * S

    def __call__(self) -> int:
        return self.now_ns


def passed(limit: RateLimit, **event: Any) -> dict[str, Any] | None:
    """The event as it leaves the processor; None: dropped."""
    try:
        return dict(limit(None, "warning", event))
    except structlog.DropEvent:
        return None


def json_lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_json_lines_hold_what_was_bound_the_level_and_the_time_in_utc() -> None:
    out = io.StringIO()
    configure_logging("json", "info", out)
    log = structlog.get_logger().bind(model="yolo/1", stream="front\ncamera")
    log.warning("stream refused", reason="over capacity")
    log.debug("not shown")
    (line,) = json_lines(out)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {
        "event": "stream refused",
        "level": "warning",
        "model": "yolo/1",
        "stream": "front\ncamera",
        "reason": "over capacity",
    }


def test_console_lines_are_for_people_and_keep_to_one_line_each() -> None:
    out = io.StringIO()
    configure_logging("console", "debug", out)
    structlog.get_logger().bind(model="yolo/1", stream="front\ncamera").debug("stream opened")
    (line,) = out.getvalue().splitlines()
    assert "[debug" in line
    assert "stream opened" in line
    assert "model=yolo/1" in line


def test_names_do_not_steer_a_terminal() -> None:
    out = io.StringIO()
    configure_logging("console", "debug", out)
    structlog.get_logger().info("admin\x1b[2J act", target="\x1b]0;pwned\x07\u202egnp")
    assert r"target=\x1b]0;pwned\x07\u202egnp" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_auto_is_json_where_nobody_watches() -> None:
    out = io.StringIO()
    configure_logging("auto", "info", out)
    structlog.get_logger().info("ready")
    assert json_lines(out)[0]["event"] == "ready"


def test_libraries_log_the_same_kind_of_lines() -> None:
    out = io.StringIO()
    configure_logging("json", "warning", out)
    logging.getLogger("asyncio").error("task %s failed", 3)
    logging.getLogger("asyncio").info("not shown")
    logging.getLogger("grpc").log(logging.WARNING + 5, "an odd level")
    lines = json_lines(out)
    assert [(line["logger"], line["level"], line["event"]) for line in lines] == [
        ("asyncio", "error", "task 3 failed"),
        ("grpc", "warning", "an odd level"),
    ]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_exceptions_carry_their_traceback(log_format: Any) -> None:
    out = io.StringIO()
    configure_logging(log_format, "info", out)
    try:
        raise KeyError("lost")
    except KeyError:
        structlog.get_logger().exception("worker failed")
        logging.getLogger("asyncio").exception("task failed")
    assert out.getvalue().count("Traceback (most recent call last)") == 2
    assert out.getvalue().count("KeyError: 'lost'") == 2


def test_a_log_that_nobody_can_read_any_more_harms_nobody() -> None:
    out = io.StringIO()
    configure_logging("json", "info", out)
    out.close()
    structlog.get_logger().error("ready")


def test_a_repeated_event_is_held_back_and_then_counted() -> None:
    clock = Clock()
    limit = RateLimit(clock)
    results = [passed(limit, event="frame invalid", model="yolo/1") for _ in range(LINES_PER_SECOND_MAX + 3)]
    assert results[:LINES_PER_SECOND_MAX] == [{"event": "frame invalid", "model": "yolo/1"}] * LINES_PER_SECOND_MAX
    assert results[LINES_PER_SECOND_MAX:] == [None] * 3
    clock.now_ns += S - 1
    assert passed(limit, event="frame invalid", model="yolo/1") is None
    clock.now_ns += 1
    assert passed(limit, event="frame invalid", model="yolo/1") == {
        "event": "frame invalid",
        "model": "yolo/1",
        "suppressed": 4,
    }
    assert passed(limit, event="frame invalid", model="yolo/1") == {"event": "frame invalid", "model": "yolo/1"}


def test_one_models_noise_does_not_hide_anothers() -> None:
    limit = RateLimit(Clock())
    for _ in range(20):
        passed(limit, event="frame invalid", model="yolo/1")
    assert passed(limit, event="frame invalid", model="vad/1") is not None
    assert passed(limit, event="worker replaced", model="yolo/1") is not None
    assert passed(limit, event="frame invalid") is not None


def test_a_librarys_lines_count_together_however_they_differ() -> None:
    limit = RateLimit(Clock())
    results = [passed(limit, event=f"task 0x{i:x} failed", logger="asyncio") for i in range(LINES_PER_SECOND_MAX + 1)]
    assert results[-1] is None
    assert results[-2] is not None


def test_the_table_of_events_is_bounded_and_forgets_the_quietest() -> None:
    limit = RateLimit(Clock())
    for _ in range(LINES_PER_SECOND_MAX):
        passed(limit, event="loud")
        passed(limit, event="quiet")
    for i in range(KEYS_MAX - 1):
        assert passed(limit, event="loud") is None
        passed(limit, event=f"other {i}")
    assert passed(limit, event="loud") is None
    assert passed(limit, event="quiet") is not None


def test_a_line_that_a_pipe_has_no_room_for_spoils_none_after_it() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as log, os.fdopen(writing, "w") as out:
        configure_logging("json", "info", out)
        structlog.get_logger().error("long", text="x" * (1 << 20))  # much more than any pipe holds
        structlog.get_logger().error("short")
        held = log.read1(1 << 20)
        assert b"\n" not in held
        structlog.get_logger().error("again")
        cut, line = log.read1(1 << 20).split(b"\n")[:2]
        assert not cut
        assert json.loads(line)["lines_lost"] == 2
