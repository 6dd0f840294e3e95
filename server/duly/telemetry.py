"""Log lines: what they look like, where they go, and how many of a kind there may be.

    log = structlog.get_logger().bind(model="yolo/1", stream="front camera")
    log.warning("stream refused", reason=...)

Each event is one line on standard error, with the time in UTC and the level. The event is for people, its keys and
values are for programs. Nothing is logged for a single frame above `debug`.
"""

import atexit
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Literal, TextIO

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from duly.log_lines import Lines, LinesFromThread, descriptor_of

LEVELS = ("error", "warning", "info", "debug")
"""What may be logged, from the least to the most."""
LINES_PER_SECOND_MAX = 5
"""Limit for one event about one model: a fault that hits every frame must not become thousands of lines a second."""
KEYS_MAX = 1024
"""Number of (event, model) pairs that are remembered. The pair whose last line is oldest is forgotten first."""

_S = 1_000_000_000


@dataclass(slots=True)
class _Window:
    """What one (event, model) pair logged within one second."""

    began_ns: int
    lines: int = 0
    suppressed: int = 0


class RateLimit:
    """A structlog processor that drops what is repeated too often.

    At most `LINES_PER_SECOND_MAX` lines a second of each (event, model) pair, or of each library, pass; the first line
    of a later second says in `suppressed` how many did not.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()
        self._lock = Lock()  # libraries log from threads of their own

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        now_ns = self._clock_ns()
        # A library's lines count together: many of its events hold addresses and ids, so no two of them are equal.
        # The keys are text, because what is bound as a model need not be hashable.
        key = (str(event.get("logger", event["event"])), str(event.get("model")))
        with self._lock:
            window = self._windows.get(key)
            if window is None:
                window = self._windows[key] = _Window(now_ns)
                if len(self._windows) > KEYS_MAX:
                    self._windows.popitem(last=False)
            else:
                self._windows.move_to_end(key)
            if now_ns - window.began_ns >= _S:
                if window.suppressed:
                    event["suppressed"] = window.suppressed
                window.began_ns, window.lines, window.suppressed = now_ns, 0, 0
            if window.lines >= LINES_PER_SECOND_MAX:
                window.suppressed += 1
                raise structlog.DropEvent
            window.lines += 1
        return event


def _printable(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A structlog processor for terminals: what clients and models sent as names must not steer one."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in value)
    return event


class _FromLibraries(logging.Handler):
    """Passes what libraries log through structlog, so that their lines look like the server's own."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
            exc_info = record.exc_info or None
            structlog.get_logger().log(level, record.getMessage(), logger=record.name, exc_info=exc_info)
        except Exception:
            self.handleError(record)


def configure_logging(
    log_format: Literal["auto", "console", "json"], log_level: str, stream: TextIO | None = None
) -> Lines:
    """Sets up structlog, and the logging of the standard library that gRPC and asyncio use, for lines of the same kind.

    `log_format`: auto means console on a terminal, else json. `log_level`: debug, info, warning or error; debug lines
    of libraries are never shown. `stream`: where the lines go; None means standard error, written to by a thread, so
    that nobody waits for it. Returns what writes the lines, which knows how many were lost.
    """
    out = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[log_level.upper()]
    lines: Lines
    if stream is None and (descriptor := descriptor_of(out)) is not None:
        lines = from_thread = LinesFromThread(descriptor)
        atexit.register(from_thread.flush)
    else:
        lines = Lines(out)
    render: list[Processor]
    if log_format == "console" or (log_format == "auto" and out.isatty()):
        plain = structlog.dev.plain_traceback  # the default depends on which packages happen to be installed
        render = [_printable, structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain)]
    else:
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            RateLimit(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            lines.note_lost,
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: lines,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=max(level, logging.INFO), force=True)
    return lines


def log_level() -> str:
    """Returns the level from which on events are logged."""
    level = structlog.get_logger().get_effective_level()
    return next((name for name in LEVELS if logging.getLevelNamesMapping()[name.upper()] <= level), LEVELS[-1])


def set_log_level(log_level: str) -> None:
    """Logs events of this level and above from now on. Streams that are open go on as they began."""
    level = logging.getLevelNamesMapping()[log_level.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    logging.getLogger().setLevel(max(level, logging.INFO))
