"""What a worker prints, such as the last words of a library that aborts, goes into the server's log.

A worker prints into a pipe of its own, whose ends never block. So a worker that has much to say waits for nobody: what
does not fit is lost. The server takes what there is SAMPLE_SECONDS after the first byte, which keeps the lines of a
traceback together and bounds what a worker that prints without end can cost.
"""

import asyncio
import contextlib
import os
import re

import structlog

_log = structlog.get_logger("duly.worker")

SAMPLE_SECONDS = 0.05
PIPE_BYTES = 65_536
"""How much is taken at once, which is also what a pipe holds."""
TEXT_CHARS_MAX = 4000
"""The longest text of one line of the log. Of longer ones the end is kept, which is where errors stand."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""What makes text coloured on a terminal."""


class WorkerOutput:
    def __init__(self, model: str, lane: str) -> None:
        """Raises OSError where the system has no room for a pipe."""
        self._model, self._lane = model, lane
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._reading, self.writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        """`writing`: the end that the worker inherits as its standard output and error."""

    def listen(self) -> None:
        """Takes what the worker prints from now on. Call it when the worker has inherited its end."""
        os.close(self.writing)
        self._loop.add_reader(self._reading, self._printed)

    def end(self) -> None:
        """Takes what is left, once the worker is gone. It may be called again."""
        if self._reading >= 0:
            self._take()
            self._close()

    def give_up(self) -> None:
        """Closes both ends, where no worker was started."""
        os.close(self.writing)
        self._close()

    def _printed(self) -> None:
        self._loop.remove_reader(self._reading)
        self._timer = self._loop.call_later(SAMPLE_SECONDS, self._sample)

    def _sample(self) -> None:
        if self._take():
            self._loop.add_reader(self._reading, self._printed)
        else:
            self._close()

    def _take(self) -> bool:
        """Logs what was printed. Returns whether there may be more."""
        printed = b""
        with contextlib.suppress(BlockingIOError):
            printed = os.read(self._reading, PIPE_BYTES)
            if not printed:
                return False
        if text := _COLOURS.sub("", printed.decode(errors="replace")).strip():
            left_out = {"characters_left_out": len(text) - TEXT_CHARS_MAX} if len(text) > TEXT_CHARS_MAX else {}
            _log.info("worker printed", model=self._model, lane=self._lane, text=text[-TEXT_CHARS_MAX:], **left_out)
        return True

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._reading)
        os.close(self._reading)
        self._reading = -1
