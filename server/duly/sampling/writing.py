"""What the process that writes samples does with each message, without the process: what is written where, what becomes
of labels, and what there is to say to the server.

A disk that is full, read-only or gone costs what was to be written just then, which is counted and named. The next
frame is tried again.
"""

import errno
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from duly.agreement.classes import answer_of, classes_of, label_of, scores_name
from duly.sampling import wire
from duly.sampling.drawn import DrawnFolder, Full
from duly.sampling.labels import UNKNOWN, ClassNames, Labels, Sender, labels_of
from duly.sampling.limits import WriterSettings
from duly.sampling.sample import Sample, form_of, sample_of
from duly.sampling.segments import ModelStore
from duly.sampling.tensors import BadTensor, array_of
from duly.sampling.wire import Joined

TELL_SECONDS = 0.25
"""How often the server is told what was written, at most."""
TRIM_SECONDS = 60.0
"""How often it is looked for segments that are too old."""
REASON_CHARS_MAX = 400
"""What is said of the labels of one frame is no longer."""
_REASONS = {
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EFBIG: "no_space",
    errno.EACCES: "not_writable",
    errno.EPERM: "not_writable",
    errno.EROFS: "not_writable",
    errno.ENOENT: "folder_gone",
    errno.ENOTDIR: "folder_gone",
    errno.ESTALE: "folder_gone",
}
Say = Callable[[int, dict[str, Any]], None]


class FolderGone(Exception):
    """A folder is no longer there. It may come back as another one, which only a fresh process can reach."""


class Writing:
    def __init__(
        self,
        settings: WriterSettings,
        say: Say,
        now_s: float,
        unix_s: float,
        living: wire.Groups = MappingProxyType({}),
    ) -> None:
        """Looks through what is there from before. `say(kind, body)` sends a message to the server. `living`: the
        groups of samples whose streams go on. Raises OSError where a folder is not there or cannot be read.
        """
        self._settings = settings
        self._say = say
        self._folders = {Path(folder): _identity(Path(folder)) for folder in settings.folders}
        drawn = Path(settings.drawn_folder)
        self._drawn = DrawnFolder(drawn, settings.drawn, living) if settings.drawn_folder else None
        self._stores: dict[str, ModelStore] = {}
        self._trim_s = now_s + TRIM_SECONDS
        self._written: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._problem = ""
        self._told: tuple[int, ...] = 0, 0
        self._tell_s = now_s
        if settings.store_folder:
            for folder in sorted(Path(settings.store_folder).iterdir()):
                if folder.is_dir() and not folder.is_symlink() and not folder.name.startswith("."):
                    self._stores[folder.name] = ModelStore(folder, settings.store, unix_s)

    def take(self, now_s: float, unix_s: float, kind: int, body: dict[str, Any], data: memoryview) -> bool:
        """Does what a message of the server says. Returns False where it is the last one. Raises FolderGone, and any
        error where the message is none of ours.
        """
        match kind:
            case wire.FRAME:
                self._frame(now_s, unix_s, body, data)
            case wire.LABELS:
                self._labels(now_s, unix_s, body, data)
            case wire.ENDED:
                if self._drawn is not None:
                    self._drawn.ended(body["model"], body["group"])
            case wire.STOP:
                for store in self._stores.values():
                    store.frames.flush(unix_s)
                    store.labelled.flush(unix_s)
                return False
        return True

    def due_in_s(self, now_s: float) -> float:
        """Returns in how many seconds `look` has something to do."""
        due = [store.due_s for store in self._stores.values() if store.due_s is not None]
        if self._counts() != self._told:
            due.append(self._tell_s)
        return max(0.0, min(due, default=self._trim_s) - now_s)

    def look(self, now_s: float, unix_s: float) -> None:
        """Writes what is due, and tells the server what was written. Raises FolderGone."""
        for store in self._stores.values():
            store.flush(now_s, unix_s)
        if now_s >= self._trim_s:
            self._trim_s = now_s + TRIM_SECONDS
            for store in self._stores.values():
                try:
                    store.trim(unix_s)
                except OSError as error:  # until it can be removed, nothing more is written where there is too much
                    self._problem = error.strerror or type(error).__name__
        if now_s >= self._tell_s:
            self._tell_s = now_s + TELL_SECONDS
            self.tell()
        if self._problem and any(_identity(folder) != identity for folder, identity in self._folders.items()):
            self.tell()
            raise FolderGone

    def tell(self) -> None:
        """Tells the server what has changed."""
        counts = self._counts()
        if counts == self._told:
            return
        self._told = counts
        drawn_bytes = self._drawn.bytes if self._drawn is not None else 0
        store_bytes = sum(store.bytes for store in self._stores.values())
        body = {
            "written": dict(self._written),
            "dropped": dict(self._dropped),
            "problem": self._problem,
            "bytes": {"samples": drawn_bytes, "store": store_bytes},
        }
        self._say(wire.STATUS, body)

    def _counts(self) -> tuple[int, ...]:
        return sum(self._written.values()), sum(self._dropped.values())

    # ---- frames ----

    def _frame(self, now_s: float, unix_s: float, body: dict[str, Any], data: memoryview) -> None:
        form = form_of(body["form"])
        tensors = body["tensors"]
        pieces = wire.parts(data, [size for *_, size in tensors])
        try:
            arrays = {
                name: array_of(form.datatypes[name], tuple(shape), each)
                for (name, shape, _), each in zip(tensors, pieces, strict=True)
            }
        except (BadTensor, ValueError, OverflowError, MemoryError):
            self._dropped["misfit"] += body["store"] + ("group" in body)
            return
        sample = sample_of(form, body["frame"], arrays)
        if self._drawn is not None and "group" in body:
            try:
                self._drawn.put(body["group"], body["place"], sample)
                self._wrote(form.model, None)
            except Full:
                self._dropped["full"] += 1
            except OSError as error:
                self._wrote(form.model, error)
        if body["store"]:
            store = self._stores.get(form.model)
            try:
                if store is None:
                    folder = Path(self._settings.store_folder, form.model)
                    store = self._stores[form.model] = ModelStore(folder, self._settings.store, unix_s)
                store.put(now_s, unix_s, sample, partial(self._wrote, form.model))
            except OSError as error:
                self._wrote(form.model, error)

    def _wrote(self, model: str, failed: OSError | None) -> None:
        """Counts a frame that was to be written."""
        if failed is None:
            self._written[model] += 1
            self._problem = ""
        else:
            self._dropped[_REASONS.get(failed.errno or 0, "io_error")] += 1
            self._problem = failed.strerror or type(failed).__name__

    # ---- labels ----

    def _labels(self, now_s: float, unix_s: float, body: dict[str, Any], data: memoryview) -> None:
        sender = Sender(str(body["principal"]), bool(body["any_stream"]), tuple(body["models"]))
        names: ClassNames = body["names"]
        items = body["items"]
        pieces = iter(wire.parts(data, [size for item in items for size in item["sizes"]]))
        call = _Call(int(body["call"]), len(items), self._say)
        wanted = body.get("judges", {})
        judges = {str(name): (str(output), float(threshold)) for name, (output, threshold) in wanted.items()}
        labels = [labels_of(item, [next(pieces) for _ in item["sizes"]]) for item in items]
        places = [max((store.place(each.key) for store in self._stores.values()), default=-1) for each in labels]
        for nth in sorted(range(len(items)), key=places.__getitem__):  # each segment is looked into once
            with_labels = self._join(now_s, unix_s, labels[nth], sender, names, partial(call.answer, nth))
            if with_labels is not None and (judge := judges.get(with_labels.form.model)) is not None:
                call.judge(with_labels, *judge)
        call.answered_all()

    def _join(
        self,
        now_s: float,
        unix_s: float,
        labels: Labels,
        sender: Sender,
        names: ClassNames,
        answer: Callable[[Joined, str], None],
    ) -> Sample | None:
        """Joins labels with their frame, wherever it is kept, and answers once what came of it is known. Returns the
        frame with its labels; None: it has none of these.
        """
        unix_ns = int(unix_s * 1e9)
        store, kept = None, None
        try:
            drawn = self._drawn.find(labels.key) if self._drawn is not None else None
            for store in self._stores.values():
                if (kept := store.find(labels.key)) is not None:
                    break
            found = kept or drawn
            if found is None or not sender.may_label(found):
                answer(Joined.UNKNOWN_FRAME, UNKNOWN)
                return None
            with_labels = labels.join(found, sender, unix_ns, names)
            if drawn is not None and self._drawn is not None:
                again = with_labels if found is drawn else labels.join(drawn, sender, unix_ns, names)
                self._drawn.put_again(labels.key, again)
            if kept is None or store is None:
                answer(Joined.JOINED, "")
                return with_labels
        except BadTensor as error:
            answer(Joined.INVALID, str(error))
            return None
        except (ValueError, OverflowError, MemoryError):
            answer(Joined.INVALID, "they are no tensors that can be kept")
            return None
        except OSError as error:
            self._problem = error.strerror or type(error).__name__
            answer(Joined.NOT_KEPT, _not_kept(error))
            return None
        store.put_labelled(now_s, unix_s, with_labels, partial(_tell_written, answer))
        return with_labels


class _Call:
    """The labels of one message, which are answered together."""

    def __init__(self, number: int, items: int, say: Say) -> None:
        self._number = number
        self._answers: list[tuple[int, str] | None] = [None] * items
        self._left = items + 1  # one for the whole
        self._judged: list[tuple[str, bool, str, int, int, bool]] = []
        self._say = say

    def judge(self, sample: Sample, output: str, threshold: float) -> None:
        """Notes whether the answer to a frame was right, where its label says so. `output`, `threshold`: as a trial
        asks for it (`Trials.judges_labels`).
        """
        outputs, form = sample.outputs, sample.form
        name = scores_name(outputs, output)
        scores = outputs.get(name)
        right = None if scores is None else label_of(sample.labels, form.class_label, name, classes_of(scores))
        if scores is None or right is None:
            return
        is_right = answer_of(scores, threshold) == right
        version = f"{form.model}/{form.version}"
        self._judged.append((version, sample.drawn, sample.stream, sample.frame_id, sample.received_unix_ns, is_right))

    def answer(self, nth: int, joined: Joined, reason: str) -> None:
        self._answers[nth] = int(joined), reason[:REASON_CHARS_MAX]
        self.answered_all()

    def answered_all(self) -> None:
        self._left -= 1
        if not self._left:
            self._say(wire.ANSWERS, {"call": self._number, "answers": self._answers, "judged": self._judged})


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one that is called so later; None: there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _tell_written(answer: Callable[[Joined, str], None], failed: OSError | None) -> None:
    if failed is None:
        answer(Joined.JOINED, "")
    else:
        answer(Joined.NOT_KEPT, _not_kept(failed))


def _not_kept(error: OSError) -> str:
    return f"the server could not write it: {error.strerror or type(error).__name__}; send it again later"
