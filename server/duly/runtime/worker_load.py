"""What happens in a worker from LOAD to READY: what it says meanwhile, what it is answered, and how long it may take.

Its process is started and ended elsewhere (`runtime/worker_process`), where the first batch begins too.
"""

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from duly.models.contents import Fingerprint, changed_files, changed_signature, in_words
from duly.models.digests import FILES_MAX, FileDigest
from duly.models.spec import Signature
from duly.runtime.answers import REASON_CHARS_MAX, words
from duly.runtime.engines import WorkerEngines
from duly.runtime.load_answers import (
    TEXT_BYTES_MAX,
    Progress,
    Ready,
    read_files,
    read_progress,
    read_ready,
    read_reason,
)
from duly.runtime.load_patience import TOLD_SECONDS, LoadPatience
from duly.runtime.process_state import process_state
from duly.worker import channel

_log = structlog.get_logger("duly.worker")

BUILD_TIMEOUT_SECONDS = 14_400.0
"""Compilers of engines have this long where no setting says otherwise."""
NO_PROGRESS = Progress("", False, 0.0, 0.0)


class WorkerError(Exception):
    """A model could not be loaded; the text says why."""


class MemoryFull(WorkerError):
    """There is not enough memory to load it, or to warm it up."""


class OtherContents(WorkerError):
    """The files, or what a worker made of them, are not what the first worker of the version has loaded."""


class WorkerLoad:
    """The load of a model version in one worker."""

    def __init__(
        self,
        model: str,
        lane: str,
        variants: int,
        expected: Fingerprint | None,
        opens: Callable[[Signature, channel.Region], None],
        gone: Callable[[], None],
    ) -> None:
        """`variants`: how many there are. `expected`: what it must load; None: it is the first.

        `opens(signature, region)` gets what batches go through, before anything else is made of READY; what it raises
        is wrong with the worker's answer. `gone()` is called when the socket has closed.
        """
        self.contents: dict[str, FileDigest] = {}
        """What the files held that the worker has read."""
        self.engines: WorkerEngines | None = None
        """Where it finds what is compiled for it, which is given back when its process is gone."""
        self.compiles = False
        """Whether anything may be compiled in this load, so that the worker's word for that counts."""
        self.progress = NO_PROGRESS
        """What the worker does."""
        self.on_progress: Callable[[], None] = lambda: None
        """Is called when a compiler begins, ends or goes on to something else."""
        self.crashed = False
        """Whether the process ended by itself before it was ready."""
        self._model = model
        self._lane = lane
        self._variants = variants
        self._expected = expected
        self._opens = opens
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[Ready] = self._loop.create_future()
        self._started_ns = 0
        self._text_bytes_left = TEXT_BYTES_MAX
        self._texts = 0
        self._progresses = 0
        self._patience: LoadPatience | None = None
        self._answering: asyncio.Task[None] | None = None
        """The answer to what the worker has asked."""

    def begin(self, connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """The process has been started, and LOAD is on its way to it."""
        self._socket = connection
        self._process = process
        self._started_ns = time.monotonic_ns()

    @property
    def over(self) -> bool:
        """Whether the worker is ready, or its load has failed."""
        return self._ready.done()

    @property
    def succeeded(self) -> bool:
        return self._ready.done() and self._ready.exception() is None

    @property
    def compiler_works(self) -> bool:
        """Whether a compiler is at work, or the worker waits to be told of what one has made. How long either takes
        nobody knows.
        """
        return self.progress.builds or self._waits

    @property
    def _waits(self) -> bool:
        return self.engines is not None and self.engines.waits

    async def ready(
        self,
        timeout_seconds: float,
        timeout_name: str = "load_timeout_s",
        build_timeout_seconds: float = BUILD_TIMEOUT_SECONDS,
    ) -> Ready:
        """Waits until the model is warm and profiled. Raises WorkerError where it cannot be loaded, OtherContents
        where it is not what was expected. `timeout_name`: where the time-out comes from, for people.
        `build_timeout_seconds`: how long engines may be compiled besides.
        """
        time_s = self._loop.time
        patience = self._patience = LoadPatience(timeout_seconds, timeout_name, build_timeout_seconds, time_s())
        self._note_progress()
        told_s = time_s()
        while not self._ready.done():
            await asyncio.wait([self._ready], timeout=patience.look_s(time_s()))
            if self._ready.done():
                break
            state = process_state(self._process.pid)
            if why := patience.over(time_s(), state.cpu_ns if state is not None else None):
                self._process.kill()
                raise WorkerError(why)
            if self.progress.builds and time_s() - told_s >= TOLD_SECONDS:
                told_s = time_s()
                _log.info("still compiling", model=self._model, lane=self._lane, doing=self.progress.told(time_s()))
        return await asyncio.shield(self._ready)

    # ---- how it fails ----

    def fail(self, reason: str, kind: type[WorkerError] = WorkerError) -> None:
        """Notes why the load fails, if it is not over."""
        if not self._ready.done():
            self._ready.set_exception(kind(reason))

    def fail_by_end(self, how: str) -> None:
        """The process has ended by itself. `how`: for people."""
        self.crashed = True
        self.fail(f"its worker process ended while it was loaded ({how})")

    def hang_up(self) -> None:
        """Nothing is answered any more."""
        if self._answering is not None:
            self._answering.cancel()
        if self.engines is not None:
            self.engines.over = True

    def _refuse_answer(self, error: Exception) -> None:
        """Ends the load, as the worker said something that can't be true."""
        text = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        self.fail(f"its worker's answer makes no sense: {words(text, REASON_CHARS_MAX)}")
        self._process.kill()

    def _refuse(self, changes: list[str]) -> None:
        """Ends the load of a version that is not what it was, if there are any changes."""
        if changes:
            self.fail(in_words(changes), OtherContents)
            self._process.kill()

    # ---- what the worker says ----

    def hear(self) -> None:
        """Takes in one message. Call it when there is one, until the load has succeeded."""
        try:
            message, fds = channel.receive_text(self._socket, max(self._text_bytes_left, 0))
        except BlockingIOError:
            return
        except OSError:
            message, fds = b"", []
        except ValueError as error:
            self._refuse_answer(error)
            return
        try:
            if not message:
                self._gone()
            elif not self._ready.done():  # else the load has failed, and the worker is about to be killed
                self._take(message, fds)
        except Exception as error:  # otherwise the load would wait for its time-out
            self._refuse_answer(error)
        finally:
            channel.close_all(fds)

    def _take(self, message: bytes, fds: list[int]) -> None:
        """Takes what the worker says. The descriptors that are needed it takes out of `fds`."""
        self._text_bytes_left -= len(message)
        self._texts += 1
        _, body = channel.decode_text(message)
        if channel.kind_of(message) in (channel.PROGRESS, channel.ENGINE):
            self._progresses += 1
            self._texts -= 1
        if self._text_bytes_left < 0 or self._texts > FILES_MAX + 1 or self._progresses > 2 * channel.PROGRESS_MAX:
            raise ValueError(f"more than {TEXT_BYTES_MAX:,} bytes, or than {FILES_MAX} files")
        if channel.kind_of(message) == channel.FILES:
            self._take_files(read_files(body))
        elif channel.kind_of(message) == channel.PROGRESS:
            self._take_progress(read_progress(body, self._loop.time()))
        elif channel.kind_of(message) == channel.ENGINE:
            if self._answering is not None and not self._answering.done():
                raise ValueError("a question before the one before it was answered")
            self._answering = self._loop.create_task(self._answer(body), name=f"engine of {self._model}")
        elif channel.kind_of(message) == channel.READY:
            self._take_ready(body, fds)
        elif channel.kind_of(message) == channel.LOAD_FAILED:
            self.fail(read_reason(body), MemoryFull if body.get("full") is True else WorkerError)
        else:
            raise ValueError(f"a message of kind {channel.kind_of(message)}")

    def _take_files(self, digests: dict[str, FileDigest]) -> None:
        self.contents |= digests
        if len(self.contents) > FILES_MAX:
            raise ValueError(f"more than {FILES_MAX} files")
        if self._expected is not None:
            self._refuse(changed_files(self._expected.contents, digests))

    def _take_progress(self, progress: Progress) -> None:
        if not self.compiles:
            progress = replace(progress, builds=False)
        before, self.progress = self.progress, progress
        self._note_progress()
        if progress.builds and progress.doing != before.doing:
            expected_s = round(progress.expected_s) or None
            _log.info("compiling", model=self._model, lane=self._lane, doing=progress.doing, took_before_s=expected_s)
        if progress.builds or before.builds:
            self.on_progress()

    def _note_progress(self) -> None:
        if self._patience is not None:
            self._patience.note(self.progress.builds, self._waits, self._loop.time())

    async def _answer(self, body: dict[str, Any]) -> None:
        """Answers what the worker asks for an engine."""
        answer: dict[str, Any] = {"folder": "", "there": False, "seconds": 0.0}
        try:
            if self.engines is not None:
                answering = self._loop.create_task(self.engines.answer(body, self.contents))
                try:
                    await asyncio.sleep(0)  # it waits from here on
                    self._note_progress()
                    answer = await answering
                finally:
                    answering.cancel()
                    self._note_progress()
            if self._socket.fileno() >= 0:
                channel.send_text(self._socket, channel.ENGINE, answer)
        except OSError:
            self._gone()
        except Exception as error:
            self._refuse_answer(error)

    def _take_ready(self, body: dict[str, Any], fds: list[int]) -> None:
        ready = read_ready(body, self._variants, time.monotonic_ns() - self._started_ns)
        if not fds:
            raise ValueError("it has no region")
        region = channel.Region(fds[0], body["input_bytes"], body["output_bytes"])
        del fds[0]
        self._opens(ready.signature, region)
        if self._expected is not None:
            self._refuse(changed_signature(self._expected.signature, ready.signature))
        if not self._ready.done():
            self._ready.set_result(ready)
