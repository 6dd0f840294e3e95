"""The process that learns (`duly_learn.learner`), as the server sees it: started, told what serves, listened to, and
started again where it ends.

Nothing waits for it. It gets what the processors have left, and what it says is bounded: a line at a time, a few at a
turn of the event loop, counted by names of which there are only so many. What it learns comes into the repository as
any new version does.
"""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from duly.metrics import LearningCounts
from duly.models.wording import in_print
from duly.runtime.catalogue import Catalogue, VersionState
from duly.runtime.process_end import how_it_ended, reap
from duly.runtime.tasks import watch_over
from duly.runtime.worker_command import worker_environment
from duly.runtime.worker_output import WorkerOutput

_log = structlog.get_logger("duly.learning")

LEARNER = (sys.executable, "-P", "-m", "duly_learn.learner")
"""What is run. `-P`: nothing is imported from the working folder."""
LINE_BYTES_MAX = 65_536
"""A longer line of the learner's is passed over."""
READ_BYTES = 65_536
"""So much of what it says is taken at a turn of the event loop."""
BACK_OFF_SECONDS, BACK_OFF_SECONDS_MAX = 1.0, 300.0
"""The pause before it is started again, twice as long each time up to the second."""
WELL_SECONDS = 120.0
"""One that has lived for so long was well: the next pause is the shortest again."""
STOP_SECONDS = 0.2
"""At the end of the server it gets so long to end by itself. It may be killed at any time."""
MODELS_MAX = 1024
"""Of so many models it is kept how they learn; what is said of further ones is passed over."""
SIGNALS_MAX = 256
"""Of so many signals of a model drift is counted by their names, of further ones together."""
DRIFTS_MAX = 16
"""Of a model so many drifts are kept with their time and stream."""
_UNIX_NS_MAX = 1 << 63
FIGURES_MAX = 64
"""Of an attempt so many figures are kept."""
TEXT_CHARS_MAX = 2000
"""Longer texts of it are cut."""
_RESULTS = ("published", "refused", "doubted", "failed")
_PHASES = ("watching", "due", "training", "on trial")
_NEEDED = ("river", "sklearn", "onnx")
"""What the extra `learn` brings, without which it cannot start."""
_OTHERS = "(others)"


@dataclass(frozen=True, slots=True)
class Drift:
    """Drift as it was told."""

    signal: str
    """What has drifted, such as `input.amount` or `errors`."""
    unix_ns: int
    """When the frame was received, or its label came, at which it was seen."""
    stream: str
    """Whose frame that was."""
    text: str


@dataclass(slots=True)
class ModelLearning:
    """How one model learns, as last heard."""

    phase: str = ""
    """watching, due (a version is tried as soon as that can be), training or on trial."""
    version: str = ""
    """The version that it learns from."""
    published: str = ""
    """The newest version that was published."""
    frames: int = 0
    labels: int = 0
    labels_of_regime: int = 0
    """Labels since errors changed."""
    unusable_labels: int = 0
    problem: str = ""
    """What is wrong, for people; empty: nothing is known to be."""
    attempt: str = ""
    """How the last attempt ended: published, refused, doubted or failed; empty: there was none."""
    attempt_text: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    """What the last attempt measured, by name."""
    drifts: Counter[str] = field(default_factory=Counter)
    """How often each signal has drifted."""
    last_drifts: deque[Drift] = field(default_factory=lambda: deque(maxlen=DRIFTS_MAX))
    attempts: Counter[str] = field(default_factory=Counter)
    """How often attempts have ended so."""


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    models: Path
    """The repository."""
    store: Path | None
    """None: nothing is learnt."""
    commands: bool
    """Whether model.toml may name trainers."""
    bytes_max: int
    """Memory of the learner."""
    store_bytes_max: int
    """What the frames of a model may take on the disk."""
    age_s_max: float
    """How long frames are kept."""


class Learning:
    """Learning as the server has it. Where there is no store it does nothing."""

    def __init__(
        self,
        settings: LearnerSettings,
        catalogue: Catalogue,
        is_coming: Callable[[str, str], bool],
        drifted: Callable[[str, Drift], None],
    ) -> None:
        """`is_coming(name, version)`: whether a loaded version may yet become active. `drifted(name, drift)` is called
        when drift of a model is told.
        """
        self.models: dict[str, ModelLearning] = {}
        self.restarts = 0
        """How often the learner has ended and was started again."""
        self._settings = settings
        self._catalogue = catalogue
        self._is_coming, self._drifted = is_coming, drifted
        self._task: asyncio.Task[None] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = asyncio.Event()
        self._pending = b""
        self._told = b""
        """What was said last of what serves."""

    def counts(self) -> LearningCounts:
        """What the metrics tell."""
        models = self.models.copy()
        return LearningCounts(
            {(name, signal): times for name, each in models.items() for signal, times in each.drifts.copy().items()},
            {(name, result): times for name, each in models.items() for result, times in each.attempts.copy().items()},
            {name: each.labels for name, each in models.items()},
            self.restarts,
        )

    @property
    def wanted(self) -> bool:
        """Whether there is a store, and a model that learns."""
        versions = self._catalogue.all_versions() if self._settings.store is not None else []
        return any(each.version.config.learning is not None and each.version.config.learning.on for each in versions)

    def start(self) -> None:
        """Keeps the learner running from now on, where there is a store and as soon as a model learns."""
        if self._settings.store is not None:
            self._task = watch_over("learning", self._run)

    async def close(self) -> None:
        """Ends the learner, and returns when it is gone."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        back_off_s = BACK_OFF_SECONDS
        time = asyncio.get_running_loop().time
        while True:
            await self._until_wanted()
            began_s = time()
            how = await self._one_life()
            if time() - began_s >= WELL_SECONDS:
                back_off_s = BACK_OFF_SECONDS
            self.restarts += 1
            _log.error("the learner has ended, serving goes on", how=how, again_in_s=back_off_s)
            await asyncio.sleep(back_off_s)
            back_off_s = min(2 * back_off_s, BACK_OFF_SECONDS_MAX)

    async def _until_wanted(self) -> None:
        if self.wanted:
            return
        async for _ in self._catalogue.changes():
            if self.wanted:
                return

    async def _one_life(self) -> str:
        """Starts the learner, serves it until it ends, and returns how it did."""
        try:
            process, output = self._start()
        except OSError as error:
            return f"it cannot be started: {os.strerror(error.errno or 0)}"
        assert process.stdout is not None
        loop, said = asyncio.get_running_loop(), process.stdout.fileno()
        output.listen()
        loop.add_reader(said, self._hear, said)
        telling = loop.create_task(self._tell_changes(), name="telling the learner what serves")
        try:
            await self._ended.wait()
        finally:
            telling.cancel()
            loop.remove_reader(said)
            if process.stdin is not None:
                process.stdin.close()  # where it still runs, it ends then
            status = await reap(process, STOP_SECONDS)
            process.stdout.close()
            output.end()
            self._process = None
        return how_it_ended(status)

    def _start(self) -> tuple["subprocess.Popen[bytes]", WorkerOutput]:
        settings = self._settings
        assert settings.store is not None
        command = [*LEARNER, "--served", str(os.getpid())]
        command += ["--models", str(settings.models.absolute()), "--store", str(settings.store.absolute())]
        command += ["--bytes-max", str(settings.bytes_max), "--store-bytes-max", str(settings.store_bytes_max)]
        command += ["--age-s-max", str(settings.age_s_max), *(["--commands"] if settings.commands else [])]
        output = WorkerOutput("(learner)", "none")
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output.writing,
                env=worker_environment(os.environ),
                bufsize=0,
            )
        except OSError:
            output.give_up()
            raise
        assert process.stdin is not None
        assert process.stdout is not None
        for pipe in (process.stdin, process.stdout):
            os.set_blocking(pipe.fileno(), False)
        self._process, self._pending, self._told = process, b"", b""
        self._ended = asyncio.Event()
        return process, output

    # ---- what it is told ----

    async def _tell_changes(self) -> None:
        async for _ in self._catalogue.changes():
            await self._tell(self._serving())

    def _serving(self) -> bytes:
        """What serves of each model that learns, as a line."""
        said: dict[str, Any] = {}
        for name in self._catalogue.names()[:MODELS_MAX]:
            active, previous = self._catalogue.active(name), self._catalogue.previous(name)
            if active is None or active.version.config.learning is None:
                continue
            number = int(active.version.version)
            coming = [
                each.version.version
                for each in self._catalogue.versions(name)
                if int(each.version.version) > number
                and each.state is not VersionState.FAILED
                and self._is_coming(name, each.version.version)
            ]
            said[name] = {
                "active": active.version.version,
                "previous": previous.version.version if previous else "",
                "coming": coming,
                "loaded": [each.version.version for each in self._catalogue.versions(name)],
            }
        return json.dumps(said).encode() + b"\n"

    async def _tell(self, line: bytes) -> None:
        """Writes a line, which says all, unless it says what was said last. Waits where the learner does not read."""
        if line == self._told or self._process is None or self._process.stdin is None:
            return
        self._told = line
        left = memoryview(line)
        while left:
            try:
                left = left[os.write(self._process.stdin.fileno(), left) :]
            except BlockingIOError:
                await asyncio.sleep(0.1)
            except OSError:
                return  # it has ended, which is seen elsewhere

    # ---- what it says ----

    def _hear(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(descriptor)
            self._ended.set()
            return
        self.heard(data)

    def heard(self, data: bytes) -> None:
        """Takes a piece of what the learner says. What is no event is logged and passed over."""
        *lines, rest = (self._pending + data).split(b"\n")
        self._pending = rest if len(rest) <= LINE_BYTES_MAX else b""
        for line in lines:
            try:
                said = json.loads(line)
                if isinstance(said, dict):
                    self._said(said)
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
                _log.warning("the learner said what is no event", line=line[:200].decode(errors="replace"))

    def _said(self, said: dict[str, Any]) -> None:
        name, text = str(said.get("model", "")), in_print(str(said.get("text", ""))[:TEXT_CHARS_MAX])
        learned = self.models.get(name) or ModelLearning()
        match said.get("event"):
            case "drift":
                signal = str(said["signal"])[:TEXT_CHARS_MAX]
                signal = signal if signal in learned.drifts or len(learned.drifts) < SIGNALS_MAX else _OTHERS
                stream, unix_ns = in_print(str(said["stream"])[:TEXT_CHARS_MAX]), int(said["unix_ns"])
                if not 0 <= unix_ns < _UNIX_NS_MAX:
                    raise ValueError("no time")
                drift = Drift(signal, unix_ns, stream, text)
                at = int(said["at"])
                learned.drifts[signal] += 1
                learned.last_drifts.append(drift)
                _log.warning("drift", model=name, signal=signal, at=at, stream=stream, what=text)
                self._drifted(name, drift)
            case "attempt":
                result, figures = str(said["result"]), dict(said["figures"])
                learned.figures = {str(key): float(value) for key, value in list(figures.items())[:FIGURES_MAX]}
                learned.attempt, learned.attempt_text = result if result in _RESULTS else "failed", text
                learned.attempts[learned.attempt] += 1
                learned.problem = ""
                log = _log.info if result == "published" else _log.warning
                log("an attempt at a new version has ended", model=name, result=result, why=text, **learned.figures)
            case "problem":
                learned.problem = text
                _log.error("the learner has a problem", model=name or None, reason=text)
            case "state":
                _take_state(learned, said)
            case "step":
                _log.debug("a step of learning", model=name, step=str(said.get("step", ""))[:100])
        if name and (name in self.models or len(self.models) < MODELS_MAX):
            self.models[name] = learned


def _take_state(learned: ModelLearning, said: dict[str, Any]) -> None:
    phase = str(said["phase"])
    learned.phase = phase if phase in _PHASES else ""
    learned.version, learned.published = str(said["version"])[:20], str(said["published"])[:20]
    learned.frames, learned.labels = int(said["frames"]), int(said["labels"])
    learned.labels_of_regime, learned.unusable_labels = int(said["labels_of_regime"]), int(said["unusable_labels"])


def missing_packages(find: Callable[[str], object | None] = importlib.util.find_spec) -> str:
    """Says which package the learner needs and is not there; empty: all are."""
    lacking = [name for name in _NEEDED if find(name) is None]
    return lacking[0] if lacking else ""
