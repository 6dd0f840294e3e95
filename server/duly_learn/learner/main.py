"""The process that learns: it follows the store of a server, and publishes new versions into its repository.

    python -m duly_learn.learner --models REPOSITORY --store DIR

A server starts it under `duly serve --learn DIR` with `--served`, and then says on standard input what serves, a line
of JSON each time that it changes: {"fraud": {"active": "3", "coming": ["4"], "loaded": ["2", "3", "4"]}}. Without, the
newest version of each model is taken for the one that serves.

It runs with what the processors have left (SCHED_IDLE), reads and writes when nobody else does, on one thread beside
that of an attempt, within a bound of memory. One attempt is made at a time.
"""

import fcntl
import json
import os
import select
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from duly.models.repository import ModelVersion, NotARepository, Repository
from duly.sampling.files import FOLDER_MODE, BrokenFile
from duly_learn.alone import Taken, alone
from duly_learn.errors import LearnError
from duly_learn.learner.attempt import Attempt, Verdict
from duly_learn.learner.limited import TrainerFailed
from duly_learn.learner.limits import Limits
from duly_learn.learner.publish import NotPublished, clear, prune
from duly_learn.learner.telling import Teller
from duly_learn.learner.watched import Watched, forget

LOOK_SECONDS = 0.5
"""Time between two looks at the store."""
SCAN_SECONDS = 5.0
"""Time between two looks at the repository."""
STATE_SECONDS = 2.0
"""Time between two states that are told."""
RETRY_SECONDS, RETRY_SECONDS_MAX = 10.0, 600.0
"""An attempt that the disk has failed is repeated after so long, and twice as long after each further failure."""
COMING_SECONDS_MAX = 3600.0
"""A newer version without a trial, which a person may have put aside, is waited for no longer than this. One that is on
trial is waited for as long as the server says that it is.
"""
SEEN_SECONDS = 30.0
"""A server has seen a published version by then, and told whether it is on its way to being active."""
FORGET_SECONDS = 600.0
"""Time between two looks for frames that are too old to be kept."""
INPUT_BYTES_MAX = 1 << 20
"""A longer line of a server's is passed over."""
WORK_FOLDER = ".learner"
"""In the store, beside the folders of models."""


class InUse(LearnError):
    """Another learner works on the same store."""


class Learner:
    def __init__(
        self, models: Path, store: Path, commands_allowed: bool, served: bool, teller: Teller, limits: Limits
    ) -> None:
        """Raises InUse, or OSError where the store cannot be written to."""
        self._repository = Repository(models)
        self._store = store
        self._commands_allowed = commands_allowed
        self._served = served
        self._teller = teller
        self._limits = limits
        self._serving: Mapping[str, Any] = {}
        self._watched: dict[str, Watched] = {}
        self._versions: dict[str, list[ModelVersion]] = {}
        self._attempt: _Running | None = None
        self._published_s: dict[str, float] = {}
        self._coming_s: dict[tuple[str, str], float] = {}
        """Since when a version is known to be on its way."""
        self._retry_s: dict[str, tuple[float, float]] = {}
        """When an attempt is repeated, and after how long the next, by model."""
        self._told: dict[str, dict[str, object]] = {}
        self._scan_s = self._state_s = self._forget_s = 0.0
        (store / WORK_FOLDER).mkdir(exist_ok=True)
        (store / WORK_FOLDER).chmod(FOLDER_MODE)
        self._lock = _locked(store / WORK_FOLDER / "lock")

    def run(self) -> None:
        """Goes on until standard input ends, where a server started it, and for ever otherwise."""
        pending = b""
        while True:
            behind = self.turn(time.monotonic())
            read = self._wait(0.0 if behind else LOOK_SECONDS, pending)
            if read is None:
                return
            pending = read

    def turn(self, now_s: float) -> bool:
        """Does what is due. Returns whether there is more to do at once. `now_s`: a clock that never goes back."""
        if now_s >= self._scan_s:
            self._scan()
            self._scan_s = now_s + SCAN_SECONDS
        behind = [name for name, watched in self._watched.items() if self._look(name, watched)]
        self._finish(now_s)
        self._begin(now_s)
        if now_s >= self._forget_s:
            self._forget(time.time())
            self._forget_s = now_s + FORGET_SECONDS
        if now_s >= self._state_s:
            self._tell_states()
            self._state_s = now_s + STATE_SECONDS
        return bool(behind)

    def join(self) -> None:
        """Waits until an attempt that is under way has ended; the next turn takes what came of it."""
        if self._attempt is not None:
            self._attempt.thread.join()

    # ---- what a server says ----

    def serves(self, said: Mapping[str, Any]) -> None:
        """Takes what serves of each model, and which newer versions are on their way."""
        self._serving = said
        self._scan()

    def waits_for_a_trial(self, name: str) -> bool:
        """Whether nothing is tried for a model, as a newer version of it is on its way."""
        return name in self._watched and self._watched[name].heart.on_trial

    def _wait(self, seconds: float, pending: bytes) -> bytes | None:
        """Waits, and takes what the server has said meanwhile. Returns the beginning of a line; None: it has ended."""
        if not self._served:
            time.sleep(seconds)
            return pending
        if not select.select([0], [], [], seconds)[0]:
            return pending
        data = os.read(0, 65_536)
        if not data:
            return None
        *lines, rest = (pending + data).split(b"\n")
        for line in lines[-1:]:  # each says all
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict):
                self.serves(said)
        return rest if len(rest) <= INPUT_BYTES_MAX else b""

    # ---- the models ----

    def _scan(self) -> None:
        try:
            versions, _ = self._repository.scan()
        except (NotARepository, OSError) as error:
            self._teller.problem("", f"the repository cannot be read: {error}")
            return
        self._versions = {}
        for version in versions:
            if version.config.learning is not None and version.config.learning.on:
                self._versions.setdefault(version.name, []).append(version)
        for name in self._watched.keys() - self._versions.keys():
            del self._watched[name]
        for name, of_model in self._versions.items():
            self._follow(name, of_model)

    def _follow(self, name: str, of_model: list[ModelVersion]) -> None:
        said = self._serving.get(name, {})
        active = next((each for each in of_model if each.version == said.get("active")), None)
        if self._served and active is None:
            return  # nothing of the model serves
        active = active or of_model[0]
        watched = self._watched.get(name)
        if watched is None or watched.heart.settings != active.config.learning:
            work = self._store / WORK_FOLDER / name
            watched = Watched(active, self._store / name, work, self._limits, self._passed_over)
            self._watched[name] = watched
            with suppress(Taken, OSError):
                clear_alone(active.model_folder)
        watched.version = active
        watched.heart.active = active.version if self._served else ""
        watched.heart.on_trial = self._coming(name, watched, said)

    def _coming(self, name: str, watched: Watched, said: Mapping[str, Any]) -> bool:
        """Whether a newer version, whoever published it, is on its way to being active, as the server says."""
        active, coming = int(watched.version.version), [str(number) for number in said.get("coming", ())]
        tried = {each.version for each in self._versions[name] if each.config.trial is not None}
        newer = [number for number in coming if int(number) > active]
        if any(number in tried for number in newer):
            return True
        now_s = time.monotonic()
        if any(now_s - self._coming_s.setdefault((name, number), now_s) < COMING_SECONDS_MAX for number in newer):
            return True
        published = watched.lasting.published
        if not self._served or published in newer or not published or int(published) <= active:
            return False
        # The server may not have seen it yet, also where it was published before this learner was started.
        return now_s - self._published_s.setdefault(name, now_s) < SEEN_SECONDS

    def _passed_over(self, path: Path, reason: str) -> None:
        self._teller.problem(path.parent.parent.name, f"{path.parent.name}/{path.name} is passed over: {reason}")

    def _look(self, name: str, watched: Watched) -> bool:
        try:
            for seen in watched.look():
                drifted = seen.drifted
                self._teller.drift(name, drifted.signal, drifted.at, drifted.text, seen.unix_ns, seen.stream)
            watched.write()
        except OSError as error:
            self._teller.problem(name, f"what has to last cannot be written to the store: {error.strerror}")
        return watched.behind

    def _forget(self, unix_s: float) -> None:
        """Removes what the learner has copied of frames that are too old, also of models that learn no more, and the
        attempts of learners that were ended.
        """
        before_ns = int((unix_s - self._limits.age_s_max) * 1e9)
        for work in sorted((self._store / WORK_FOLDER).iterdir()):
            if not work.is_dir() or (self._attempt is not None and self._attempt.name == work.name):
                continue
            try:
                forget(work, before_ns)
            except OSError as error:
                self._teller.problem(work.name, f"old frames cannot be removed from the store: {error.strerror}")

    def _tell_states(self) -> None:
        for name, watched in self._watched.items():
            heart = watched.heart
            running = self._attempt is not None and self._attempt.name == name
            state: dict[str, object] = {
                "phase": "training"
                if running
                else "on trial"
                if heart.on_trial
                else "due"
                if heart.due
                else "watching",
                "version": watched.version.version,
                "published": watched.lasting.published,
                "frames": heart.frames,
                "labels": heart.labels,
                "unusable_labels": watched.unusable,
                "labels_of_regime": heart.present(),
                "drifts": sum(heart.drifts.values()),
            }
            if self._told.get(name) != state:
                self._told[name] = state
                self._teller.state(name, state)

    # ---- attempts ----

    def _begin(self, now_s: float) -> None:
        if self._attempt is not None:
            return
        for name, watched in self._watched.items():
            if now_s < self._retry_s.get(name, (0.0, 0.0))[0] or watched.behind or not watched.heart.due:
                continue

            def step(what: str, name: str = name) -> None:
                self._teller.step(name, what)

            try:
                attempt = watched.attempt(step, self._commands_allowed)
            except OSError as error:
                self._teller.problem(name, f"what has to last cannot be written to the store: {error.strerror}")
                self._try_later(name, now_s)
                continue
            self._attempt = _Running(name, watched, attempt)
            return

    def _try_later(self, name: str, now_s: float) -> None:
        _, after_s = self._retry_s.get(name, (0.0, RETRY_SECONDS))
        self._retry_s[name] = (now_s + after_s, min(2 * after_s, RETRY_SECONDS_MAX))

    def _finish(self, now_s: float) -> None:
        attempt = self._attempt
        if attempt is None or attempt.thread.is_alive():
            return
        self._attempt = None
        name, watched, verdict = attempt.name, attempt.watched, attempt.verdict
        if attempt.passing:
            watched.clear()
            self._try_later(name, now_s)
            if attempt.taken:
                self._teller.problem(name, attempt.error)
            else:
                self._teller.attempt(name, "failed", "", attempt.error, {})
            return
        self._retry_s.pop(name, None)
        verdict = verdict or Verdict("", attempt.error, None, 0, ())
        try:
            watched.ended(verdict, attempt.attempt)
        except OSError as error:
            self._teller.problem(name, f"what has to last cannot be written to the store: {error.strerror}")
        figures = verdict.figures.told() if verdict.figures is not None else {}
        doubts = f"; not believed: {'; '.join(verdict.doubted)}" if verdict.doubted else ""
        doubts += f"; left out: {'; '.join(verdict.left_out)}" if verdict.left_out else ""
        if verdict.published:
            self._published_s[name] = time.monotonic()
            text = f"version {verdict.published} was made from version {attempt.attempt.version.version}{doubts}"
            self._teller.attempt(name, "published", verdict.published, text, figures)
            self._prune(name, watched)
            self._scan()
            return
        result = "failed" if attempt.error else "refused" if verdict.figures is not None else "doubted"
        self._teller.attempt(name, result, "", f"{verdict.reason}{doubts}", figures)

    def _prune(self, name: str, watched: Watched) -> None:
        said = self._serving.get(name, {})
        needed = {
            watched.version.version,
            watched.lasting.published,
            str(said.get("previous", "")),
            *map(str, said.get("coming", ())),
            *map(str, said.get("loaded", ())),  # a worker of theirs that ends could not be started again
        }
        with suppress(Taken, OSError), alone(watched.version.model_folder):
            for gone in prune(watched.version.model_folder, watched.heart.settings.versions_kept, needed):
                self._teller.step(name, f"version {gone} removed")


class _Running:
    """An attempt in a thread of its own, so that drift is seen meanwhile."""

    def __init__(self, name: str, watched: Watched, attempt: Attempt) -> None:
        self.name, self.watched, self.attempt = name, watched, attempt
        self.verdict: Verdict | None = None
        self.error = ""
        self.passing = False
        """Whether the same may succeed later."""
        self.taken = False
        """Whether somebody else was making a version of the model."""
        self.thread = threading.Thread(target=self._run, name=f"attempt for {name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.verdict = self.attempt.run()
        except Taken as error:
            self.error, self.passing, self.taken = str(error), True, True
        except NotPublished as error:
            self.error, self.passing = str(error), True
        except (LearnError, TrainerFailed, BrokenFile) as error:
            self.error = str(error)
        except OSError as error:
            self.error, self.passing = f"the store cannot be written to or read: {error.strerror}", True
        except Exception as error:  # a fault of this program, or an oddity of data; the next labels may do
            self.error = f"internal error, {type(error).__name__}: {error}"


def clear_alone(model_folder: Path) -> None:
    """Removes what is left of publishing that broke off. Raises Taken where somebody may be publishing."""
    with alone(model_folder):
        clear(model_folder)


def _locked(file: Path) -> int:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise InUse(
            "another learner works on this store: give each server a folder of its own, or end the other one"
        ) from None
    return descriptor


def learn(models: Path, store: Path, commands_allowed: bool, served: bool, limits: Limits) -> int:
    """Runs the learner. Returns the exit status."""
    teller = Teller(1)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        Learner(models, store, commands_allowed, served, teller, limits).run()
    except LearnError as error:
        teller.problem("", str(error))
        return 1
    except OSError as error:
        teller.problem("", f"the store cannot be used: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0
