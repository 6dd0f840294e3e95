"""What the process that writes samples does with messages: what is on the disk then, and what the server hears."""

import json
import os
import random
import resource
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duly.sampling import wire
from duly.sampling.feedback import ITEMS_MAX, LABELS_A_MESSAGE_MAX, TEXT_BYTES_MAX
from duly.sampling.host import NAMES_BYTES_MAX
from duly.sampling.limits import SEGMENT_FRAMES_MAX, DrawnLimits, StoreLimits, WriterSettings
from duly.sampling.sample import Form, Sample, form_meta, frame_meta
from duly.sampling.segments import ModelStore
from duly.sampling.store import read, segment_numbers
from duly.sampling.wire import Joined
from duly.sampling.writing import FolderGone, Writing
from tests.sampling.conftest import Mount
from tests.sampling.made import same, sample

MIB = 1 << 20
DRAWN, STORE = DrawnLimits(MIB, 4), StoreLimits(2 * MIB, 1000.0)


class Desk:
    """A writer and who talks to it, as a server would."""

    def __init__(
        self,
        drawn: Path | None = None,
        store: Path | None = None,
        drawn_limits: DrawnLimits = DRAWN,
        store_limits: StoreLimits = STORE,
    ) -> None:
        self.settings = WriterSettings("off", str(drawn or ""), drawn_limits, str(store or ""), store_limits)
        self.now_s, self.unix_s = 50.0, 1_000_000.0
        self.heard: list[tuple[int, dict[str, Any]]] = []
        self.begin()

    def begin(self, **living: list[str]) -> None:
        """As after a start of the process. `living`: the groups whose streams go on, by model."""
        say = lambda kind, body: self.heard.append((kind, body))  # noqa: E731
        self.writing = Writing(self.settings, say, self.now_s, self.unix_s, living)

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds
        self.unix_s += seconds
        self.writing.look(self.now_s, self.unix_s)

    def tell(self, kind: int, body: dict[str, Any], data: bytes = b"") -> bool:
        messages = wire.Messages()
        whole = wire.encoded(kind, body, len(data)) + data
        for at in range(0, len(whole), 1000):
            messages.feed(whole[at : at + 1000])
        message = messages.next()
        assert message is not None
        assert messages.next() is None
        return self.writing.take(self.now_s, self.unix_s, *message)

    def keep(self, kept: Sample, group: str = "", place: int = 0, *, store: bool = False) -> None:
        tensors = [(name, list(array.shape), array.nbytes) for name, array in kept.arrays.items()]
        body = {"form": form_meta(kept.form), "frame": frame_meta(kept), "tensors": tensors, "store": store}
        if group:
            body |= {"group": group, "place": place}
        self.tell(wire.FRAME, body, b"".join(array.tobytes() for array in kept.arrays.values()))

    def keep_texts(self, kept: Sample, texts: list[str]) -> None:
        data = b"".join(len(each).to_bytes(4, "little") + each.encode() for each in texts)
        body = {"form": form_meta(kept.form), "frame": frame_meta(kept), "store": True}
        self.tell(wire.FRAME, body | {"tensors": [("input.t", [len(texts)], len(data))]}, data)

    def label(self, *items: tuple[str, int, int], principal: str = "somebody", **more: Any) -> None:
        """Sends labels: (stream, frame id, class)."""
        told = [
            {
                "stream": stream,
                "frame_id": frame_id,
                "tensors": [("label", "INT64", [])],
                "sizes": [8],
                "weight": 1.0,
                "source": "",
            }
            for stream, frame_id, _ in items
        ]
        body = {"call": 7, "principal": principal, "any_stream": False, "models": ["*"], "names": {}}
        body |= {"items": told} | more
        self.tell(wire.LABELS, body, b"".join(number.to_bytes(8, "little") for *_, number in items))

    def answers(self) -> list[Joined]:
        """What became of the labels of the last message."""
        ((_, body),) = [each for each in self.heard if each[0] == wire.ANSWERS][-1:]
        assert body["call"] == 7
        return [Joined(number) for number, _ in body["answers"]]

    def status(self) -> dict[str, Any]:
        """What was written and what not, as last heard."""
        self.pass_s(1)
        return [body for kind, body in self.heard if kind == wire.STATUS][-1]


def test_frames_of_a_group_take_the_places_that_they_are_drawn_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    kept = [sample(nth) for nth in range(3)]
    for each, place in zip(kept, (0, 1, 0), strict=True):
        desk.keep(each, "a-1", place)
    assert [each.frame_id for each in read(tmp_path)] == [1, 2]
    assert same(next(read(tmp_path)), kept[1])
    assert desk.status() == {"written": {"m": 3}, "dropped": {}, "problem": "", "bytes": {"samples": 8192, "store": 0}}


def test_groups_that_ended_give_way_and_those_that_go_on_do_not(tmp_path: Path) -> None:
    desk = Desk(tmp_path, drawn_limits=DrawnLimits(MIB, 2))
    for nth, group in enumerate(("a-1", "a-2", "a-3", "a-2")):
        desk.keep(sample(nth, stream=group), group, nth)
    assert desk.status()["dropped"] == {"full": 1}
    assert {each.stream for each in read(tmp_path)} == {"a-1", "a-2"}
    desk.tell(wire.ENDED, {"model": "m", "group": "a-2"})
    desk.tell(wire.ENDED, {"model": "m", "group": "unknown"})
    desk.keep(sample(9, stream="a-3"), "a-3", 0)
    assert {each.stream for each in read(tmp_path)} == {"a-1", "a-3"}
    desk.begin()  # whatever is from before has ended
    desk.keep(sample(10, stream="b-1"), "b-1", 0)
    desk.keep(sample(11, stream="b-2"), "b-2", 0)
    assert {each.stream for each in read(tmp_path)} == {"b-1", "b-2"}
    assert len(list((tmp_path / "m" / "samples").iterdir())) == 2, "no empty folders are left"


def test_a_group_that_goes_on_after_a_restart_is_not_taken_for_one_that_ended(tmp_path: Path) -> None:
    desk = Desk(tmp_path, drawn_limits=DrawnLimits(MIB, 1))
    desk.keep(sample(1), "a-1", 0)
    desk.begin()
    desk.keep(sample(2), "a-1", 1)
    desk.keep(sample(3, stream="s-2"), "a-2", 0)
    assert desk.status()["dropped"] == {"full": 1}
    assert [each.frame_id for each in read(tmp_path)] == [1, 2]


def test_a_group_that_goes_on_lives_after_a_restart_though_nothing_more_is_drawn_for_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, drawn_limits=DrawnLimits(MIB, 2))
    for nth, group in enumerate(("a-1", "a-2")):
        desk.keep(sample(nth, stream=group), group, 0)
    desk.begin(m=["a-1"])
    for nth, group in enumerate(("b-1", "b-2"), 2):
        desk.keep(sample(nth, stream=group), group, 0)
    assert {each.stream for each in read(tmp_path)} == {"a-1", "b-1"}
    desk.tell(wire.ENDED, {"model": "m", "group": "a-1"})
    desk.keep(sample(4, stream="b-2"), "b-2", 0)
    assert {each.stream for each in read(tmp_path)} == {"b-1", "b-2"}
    desk.settings = WriterSettings("off", str(tmp_path), DrawnLimits(4096, 2), "", STORE)
    desk.begin(m=["b-1", "b-2"])  # too many bytes, all of streams that go on
    assert {each.stream for each in read(tmp_path)} == {"b-1", "b-2"}


def test_labels_take_no_more_than_samples_may(tmp_path: Path) -> None:
    desk = Desk(tmp_path, drawn_limits=DrawnLimits(8192, 4))
    for nth in range(2):
        desk.keep(sample(nth), "s-1", nth)
    desk.label(("s-1", 0, 1))
    assert desk.answers() == [Joined.JOINED], "it fits into the block that the frame has"
    wide = Form("m", "1", {"input.x": "FP32", "output.y": "FP32"}, {"y": (-1,)})
    desk.keep(sample(1, form=wide), "s-1", 1)
    item = {"stream": "s-1", "frame_id": 1, "tensors": [("y", "FP32", [3000])], "sizes": [12_000]}
    item |= {"weight": 1.0, "source": ""}
    body = {"call": 7, "principal": "somebody", "any_stream": False, "models": ["*"], "names": {}, "items": [item]}
    desk.tell(wire.LABELS, body, bytes(12_000))
    assert desk.answers() == [Joined.NOT_KEPT]
    desk.keep(sample(2, stream="s-2"), "s-2", 0)
    assert desk.status()["dropped"] == {"full": 1}


def test_samples_take_no_more_than_they_may(tmp_path: Path) -> None:
    desk = Desk(tmp_path, drawn_limits=DrawnLimits(10 * 4096, 100))
    rng = random.Random(5)
    for nth in range(200):
        group = f"a-{nth // 7}"
        desk.keep(sample(nth, stream=group), group, rng.randrange(4))
        if nth % 7 == 6:
            desk.tell(wire.ENDED, {"model": "m", "group": group})
        taken = sum(4096 * -(-path.stat().st_size // 4096) for path in tmp_path.rglob("*.npz"))
        assert taken <= 10 * 4096
    status = desk.status()
    assert status["bytes"]["samples"] == taken
    assert status["written"]["m"] + status["dropped"].get("full", 0) == 200


def test_a_frame_waits_for_others_and_no_longer_than_a_moment(tmp_path: Path) -> None:
    desk = Desk(store=tmp_path)
    for nth in range(3):
        desk.keep(sample(nth), store=True)
    assert not list(tmp_path.rglob("*.npz"))
    assert 0 < desk.writing.due_in_s(desk.now_s) <= 2
    desk.pass_s(2.1)
    assert [each.frame_id for each in read(tmp_path)] == [0, 1, 2]
    for nth in range(3, 3 + SEGMENT_FRAMES_MAX):
        desk.keep(sample(nth), store=True)
    assert segment_numbers(tmp_path / "m" / "frames") == [1, 2], "a full one waits for nothing"
    other = sample(900, form=Form("m", "2", {"input.x": "FP32", "output.y": "FP32"}, {"y": (3,)}))
    desk.keep(sample(800), store=True)
    desk.keep(other, store=True)
    assert segment_numbers(tmp_path / "m" / "frames") == [1, 2, 3], "frames of another version begin another"
    assert not desk.tell(wire.STOP, {})
    assert same(next(each for each in read(tmp_path) if each.frame_id == 900), other)


def test_labels_find_their_frames_wherever_these_are(tmp_path: Path) -> None:
    desk = Desk(store=tmp_path)
    desk.keep(sample(1), store=True)
    desk.pass_s(3)
    desk.keep(sample(2, pieces=(("s-1", 2), ("t-1", 20))), store=True)
    desk.label(("s-1", 1, 0), ("t-1", 20, 1), ("s-1", 3, 1))
    assert not [kind for kind, _ in desk.heard if kind == wire.ANSWERS], "they are not on the disk yet"
    desk.pass_s(0.3)
    assert desk.answers() == [Joined.JOINED, Joined.JOINED, Joined.UNKNOWN_FRAME]
    desk.pass_s(3)
    desk.begin()
    desk.label(("s-1", 2, 5))
    desk.pass_s(0.3)
    assert desk.answers() == [Joined.JOINED]
    assert [(each.frame_id, each.labels) for each in read(tmp_path)] == [(1, {"label": 0}), (2, {"label": 5})]


def test_a_class_that_is_named_is_joined_as_its_number(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tmp_path)
    desk.keep(sample(1), "s-1", 0, store=True)
    names = {"m": {"": ["cat", "", "dog"], "2": ["dog"]}, "other": {"": ["cow"]}}

    def name(text: str, names: dict[str, dict[str, list[str]]] = names) -> tuple[Joined, str]:
        data = len(text.encode()).to_bytes(4, "little") + text.encode()
        item = {"stream": "s-1", "frame_id": 1, "tensors": [("label", "STRING", [1])], "sizes": [len(data)]}
        body = {"call": 7, "principal": "somebody", "any_stream": False, "models": ["*"], "names": names}
        desk.tell(wire.LABELS, body | {"items": [item | {"weight": 1.0, "source": ""}]}, data)
        desk.pass_s(1)
        ((_, body),) = [each for each in desk.heard if each[0] == wire.ANSWERS][-1:]
        ((joined, reason),) = body["answers"]
        return Joined(joined), reason

    assert name("dog") == (Joined.JOINED, "")
    assert [each.labels["label"].tolist() for each in read(tmp_path)] == [2]
    assert name("cow") == (Joined.INVALID, "label 'label': no class is called 'cow'; there are 'cat', '', 'dog'")
    assert name("")[0] is Joined.INVALID, "a class without a name is not called by it"
    reason = name("dog", {"m": {"2": ["dog"]}})[1]
    assert reason.endswith("of m/1 are known (labels in model.toml); a class is its number then")
    many = name("x" * 100, {"m": {"1": [f"class {nth}" for nth in range(1000)]}})[1]
    assert many.endswith("'class 7' and 992 more")
    assert len(many) < 300
    assert [each.labels["label"].tolist() for each in read(tmp_path)] == [2]


def test_what_labels_say_of_answers_is_told_where_a_trial_asks(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.keep(sample(3, drawn=True), "s-1", 0)  # its scores are 3, 0, 1: class 0
    desk.keep(sample(4), "s-1", 1)

    def told(*labels: int, **more: object) -> object:
        desk.label(*[("s-1", 3 + nth, number) for nth, number in enumerate(labels)], **more)
        ((_, body),) = [each for each in desk.heard if each[0] == wire.ANSWERS][-1:]
        return body["judged"]

    assert told(0, 0) == []
    assert told(0, 1, judges={"n": ["", 0.5]}) == []
    right, wrong = ("m/1", True, "s-1", 3, 1003, True), ("m/1", False, "s-1", 4, 1004, False)
    assert told(0, 1, judges={"m": ["", 0.5]}) == [right, wrong]
    assert told(0, 1, judges={"m": ["other", 0.5]}) == []
    assert told(7, 1, judges={"m": ["y", 0.5]}) == [wrong], "there is no class 7"
    assert told(0, 1, judges={"m": ["y", 0.5]}, principal="other") == []


def test_nobody_labels_frames_of_others_unless_he_may(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.keep(sample(1), "s-1", 0)
    for more, expected in (
        ({"principal": "other"}, Joined.UNKNOWN_FRAME),
        ({"principal": "other", "any_stream": True, "models": ["n", "o*"]}, Joined.UNKNOWN_FRAME),
        ({"models": ["n"]}, Joined.UNKNOWN_FRAME),
        ({"principal": "other", "any_stream": True, "models": ["n", "m*"]}, Joined.JOINED),
    ):
        desk.label(("s-1", 1, 1), **more)
        assert desk.answers() == [expected], more
    (kept,) = read(tmp_path)
    assert kept.labelled is not None
    assert kept.labelled.principal == "other"


def test_the_store_is_bounded_by_bytes_frames_and_age(tmp_path: Path) -> None:
    limits = StoreLimits(40 * 4096, 100.0, frames_max=50)
    store = ModelStore(tmp_path / "m", limits, 1000.0)
    (tmp_path / "m").mkdir()
    unix_s = 1000.0
    told: Counter[bool] = Counter()
    for nth in range(300):
        store.put(unix_s, unix_s, sample(nth), lambda failed: told.update([failed is None]))
        if nth % 4 == 3:
            unix_s += 3
            store.flush(unix_s, unix_s)
            store.trim(unix_s)
            files = list((tmp_path / "m" / "frames").iterdir())
            assert len(files) <= 20
            assert store.frames.frames <= 50
            assert store._remembered <= 50 + 2 * SEGMENT_FRAMES_MAX
    assert told == {True: 300}
    assert store.find(("s-1", 299)) is not None
    assert store.find(("s-1", 1)) is None
    store.trim(unix_s + 99)
    assert store.find(("s-1", 299)) is not None
    store.trim(unix_s + 101)
    assert store.find(("s-1", 299)) is None
    assert store.bytes == 0


def test_a_full_disk_costs_what_was_to_be_written_and_no_more(small_disk: tuple[Path, Mount]) -> None:
    folder, _ = small_disk
    desk = Desk(folder, folder, drawn_limits=DrawnLimits(1 << 40, 100), store_limits=StoreLimits(1 << 40, 1e6))
    desk.keep(sample(0, stream="s-0"), "s-0", 0, store=True)
    desk.pass_s(3)
    ballast = folder / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(MIB))
    for nth in (1, 2):
        desk.keep(sample(nth), "s-1", nth, store=True)
        desk.pass_s(3)
    status = desk.status()
    assert status["dropped"] == {"no_space": 4}
    assert status["problem"] == "No space left on device"
    desk.label(("s-0", 0, 1))
    desk.pass_s(1)
    assert desk.answers() == [Joined.NOT_KEPT]
    ballast.unlink()
    desk.label(("s-0", 0, 1))
    desk.keep(sample(3), "s-1", 3, store=True)
    desk.pass_s(3)
    assert desk.answers() == [Joined.JOINED]
    assert desk.status()["problem"] == ""
    assert [(each.frame_id, len(each.labels)) for each in read(folder)] == [(0, 1), (3, 0)]
    assert not list(folder.rglob("*.half"))


def test_a_read_only_disk_is_named(small_disk: tuple[Path, Mount]) -> None:
    folder, mount = small_disk
    desk = Desk(folder, folder)
    mount("ro")
    desk.keep(sample(1), "s-1", 0, store=True)
    desk.pass_s(3)
    assert (desk.status()["dropped"], desk.status()["problem"]) == ({"not_writable": 2}, "Read-only file system")
    mount("rw")
    desk.keep(sample(2), "s-1", 0, store=True)
    desk.pass_s(3)
    assert [each.frame_id for each in read(folder)] == [2]


def test_a_file_may_be_no_larger_than_the_process_may_write(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        desk.keep(sample(1), "s-1", 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert desk.status()["dropped"] == {"no_space": 1}
    assert not list(tmp_path.rglob("*.*"))


def test_a_folder_that_is_gone_or_another_one_ends_the_process(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    desk = Desk(folder)
    folder.rmdir()
    desk.keep(sample(1), "s-1", 0)
    with pytest.raises(FolderGone):
        desk.pass_s(1)
    assert desk.heard[-1][1]["dropped"] == {"folder_gone": 1}
    with pytest.raises(FileNotFoundError):
        desk.begin()
    assert not folder.exists(), "where something else is to be mounted, nothing is made"


def test_what_was_left_half_and_what_is_broken_keeps_nobody(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tmp_path)
    desk.keep(sample(1), "s-1", 0, store=True)
    desk.pass_s(3)
    group, frames = tmp_path / "m" / "samples" / "s-1", tmp_path / "m" / "frames"
    for half in (group / ".000001.npz.half", frames / ".000000000002.npz.half"):
        half.write_bytes(b"half")
    for broken in (group / "000005.npz", frames / "000000000007.npz"):
        broken.write_bytes(b"broken")
    (tmp_path / "notes.txt").write_text("mine")
    desk.begin()
    desk.label(("s-1", 1, 1))
    desk.keep(sample(2), "s-1", 5, store=True)
    desk.pass_s(3)
    assert desk.answers() == [Joined.JOINED]
    assert sorted(os.listdir(frames)) == ["000000000001.npz", "000000000007.npz", "000000000008.npz"]
    assert sorted(os.listdir(group)) == ["000000.npz", "000005.npz"]
    assert [each.frame_id for each in read(tmp_path)] == [1, 2]


def test_numbers_of_segments_are_never_given_again(tmp_path: Path) -> None:
    desk = Desk(store=tmp_path)
    for number in (1, 2):
        desk.keep(sample(number), store=True)
        desk.label(("s-1", number, 1))
        desk.pass_s(3)
    for kind in ("frames", "labelled"):
        shutil.rmtree(tmp_path / "m" / kind)
    desk.begin()
    desk.keep(sample(3), store=True)
    desk.label(("s-1", 3, 1))
    desk.pass_s(3)
    for kind in ("frames", "labelled"):
        assert segment_numbers(tmp_path / "m" / kind) == [3]
    for kind in ("frames", "labelled"):
        (tmp_path / "m" / f".{kind}.last").write_text("no number")
    desk.begin()
    desk.keep(sample(4), store=True)
    desk.pass_s(3)
    assert segment_numbers(tmp_path / "m" / "frames") == [3, 4]


FRAME = {"stream": "s-9", "frame_id": 9, "received_unix_ns": 9, "variant": "", "status": "", "principal": ""}
ODD = {
    "no frames": [],
    "frames that are no tables": [3, None],
    "frames that are no list": {"a": 1},
    "an id beyond all numbers": [FRAME | {"frame_id": float("inf")}],
    "a time beyond all numbers": [FRAME | {"received_unix_ns": float("inf")}],
    "pieces of nothing": [FRAME | {"pieces": [[1], 2]}],
    "a piece beyond all numbers": [FRAME | {"pieces": [["s", float("inf")]]}],
    "a label that is none": [FRAME | {"label": "cat"}],
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_file_keeps_the_process_from_nothing(tmp_path: Path, case: str) -> None:
    desk = Desk(tmp_path, tmp_path)
    desk.keep(sample(1), "s-1", 0, store=True)
    desk.pass_s(3)
    meta = form_meta(sample(1).form) | {"frames": ODD[case]}
    for place in ("samples/s-1/000005.npz", "frames/000000000002.npz", "labelled/000000000002.npz"):
        (tmp_path / "m" / place).parent.mkdir(exist_ok=True)
        with (tmp_path / "m" / place).open("wb") as file:
            np.savez(file, **{"meta": np.array(json.dumps(meta).encode()), "input.x": np.zeros((2, 4), np.float32)})
    desk.begin()
    desk.label(("s-1", 1, 1))
    desk.keep(sample(2), "s-1", 5, store=True)
    desk.pass_s(3)
    assert desk.answers() == [Joined.JOINED]
    passed_over: list[Path] = []
    assert [each.frame_id for each in read(tmp_path, lambda path, reason: passed_over.append(path))] == [1, 2]
    assert {path.name for path in passed_over} == {"000000000002.npz"}


def test_what_is_no_file_in_a_folder_of_samples_is_left_alone(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tmp_path)
    desk.keep(sample(1), "s-1", 0, store=True)
    desk.pass_s(3)
    for folder, names in (("samples/s-1", ("000007", "000008", "000009")), ("frames", ("0" * 11 + n for n in "789"))):
        for make, name in zip((os.mkdir, os.mkfifo, lambda path: os.symlink("nothing", path)), names, strict=True):
            make(tmp_path / "m" / folder / f"{name}.npz")
    (tmp_path / "m" / "samples" / "s-1" / "9.npz").write_bytes(b"mine")
    desk.begin()
    desk.keep(sample(2), "s-1", 1, store=True)
    desk.pass_s(3)
    assert segment_numbers(tmp_path / "m" / "frames") == [1, 7, 8, 9, 10]
    passed_over: list[Path] = []
    assert [each.frame_id for each in read(tmp_path, lambda path, reason: passed_over.append(path))] == [1, 2]
    assert len(passed_over) == 5, "pipes, links to nothing, and what is no sample"


@pytest.mark.parametrize(
    "message", [(wire.FRAME, {}), (wire.LABELS, {"items": 3}), (wire.FRAME, {"form": {"format": 9}})]
)
def test_what_is_no_message_of_a_server_ends_the_process(tmp_path: Path, message: tuple[int, dict[str, Any]]) -> None:
    desk = Desk(tmp_path)
    with pytest.raises((KeyError, TypeError, ValueError)):
        desk.tell(*message)


def test_a_frame_that_is_no_tensor_of_its_model_is_counted(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tmp_path)
    kept = sample(1)
    tensors = [("input.x", [5], 16), ("output.y", [3], 12)]
    body = {"form": form_meta(kept.form), "frame": frame_meta(kept), "tensors": tensors, "store": True}
    desk.tell(wire.FRAME, body | {"group": "s-1", "place": 0}, bytes(28))
    assert desk.status()["dropped"] == {"misfit": 2}


def _text(*texts: bytes) -> bytes:
    return b"".join(len(each).to_bytes(4, "little") + each for each in texts)


HOSTILE = {
    "an extent that is no array's": ("FP32", [0, 1 << 62], b""),
    "extents beyond any array": ("FP32", [0, *[1 << 62] * 7], b""),
    "one long text of many": ("STRING", [200_001], _text(b"x" * MIB) + bytes(4 * 200_000)),
    "text that would lose its end": ("STRING", [1], _text(b"a\0")),
    "fewer texts than stated": ("STRING", [1 << 40], _text(b"a")),
    "more texts than stated": ("STRING", [1], _text(b"a", b"b")),
    "too many dimensions": ("INT64", [1] * 65, bytes(8)),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("where", ["label", "output", "frame"])
def test_no_tensor_of_a_client_ends_the_process(tmp_path: Path, case: str, where: str) -> None:
    datatype, shape, data = HOSTILE[case]
    desk = Desk(tmp_path, tmp_path)
    form = Form("m", "1", {"input.x": datatype, "output.y": datatype}, {"y": (-1,) * len(shape)})
    body = {"form": form_meta(form), "frame": frame_meta(sample(1, form=form)), "store": True}
    body |= {"group": "s-1", "place": 0}
    if where == "frame":
        tensors = [("input.x", shape, len(data)), ("output.y", shape, 0)]
        desk.tell(wire.FRAME, body | {"tensors": tensors}, data)
        assert desk.status()["dropped"] == {"misfit": 2}
    else:
        none = [0] * len(shape) if len(shape) < 64 else [0]
        tensors = [("input.x", none, 0), ("output.y", none, 0)]
        desk.tell(wire.FRAME, body | {"tensors": tensors})
        name = "y" if where == "output" else "label"
        item = {"stream": "s-1", "frame_id": 1, "sizes": [len(data)], "weight": 1.0, "source": ""}
        item |= {"tensors": [(name, datatype, shape)]}
        told = {"call": 7, "principal": "somebody", "any_stream": False, "models": ["*"], "names": {}, "items": [item]}
        desk.tell(wire.LABELS, told, data)
        assert desk.answers() == [Joined.INVALID]
    desk.keep(sample(2), "s-1", 1, store=True)
    desk.pass_s(3)
    assert [each.frame_id for each in read(tmp_path)][-1] == 2


def test_a_long_text_does_not_make_others_of_its_segment_long(tmp_path: Path) -> None:
    desk = Desk(store=tmp_path, store_limits=StoreLimits(1 << 30, 1000.0))
    form = Form("m", "1", {"input.t": "STRING"}, {})
    for frame_id, texts in enumerate(([""] * 5000, ["x" * MIB], [""] * 5000)):
        desk.keep_texts(sample(frame_id, form=form), texts)
    desk.pass_s(3)
    assert [each.inputs["t"].size for each in read(tmp_path)] == [5000, 1, 5000]
    assert segment_numbers(tmp_path / "m" / "frames") == [1, 2, 3]


def test_a_message_of_labels_that_is_as_long_as_may_be_is_read() -> None:
    name = "\u00e9" * (TEXT_BYTES_MAX // 2)
    tensor = (name, "UINT64", [(1 << 63) - 1] * 8)
    item = {"stream": name, "frame_id": (1 << 64) - 1, "weight": 1 / 3, "source": name}
    item |= {"tensors": [tensor] * (LABELS_A_MESSAGE_MAX // ITEMS_MAX), "sizes": [0] * 4}
    body = {"call": 1 << 60, "principal": "p" * 1000, "any_stream": False, "models": ["m" * 100] * 1000}
    body |= {"names": {"m": {"": ["\u00e9" * (NAMES_BYTES_MAX // 2)]}}}
    messages = wire.Messages()
    messages.feed(wire.encoded(wire.LABELS, body | {"items": [item] * ITEMS_MAX}))
    assert messages.next() is not None


def test_messages_that_are_too_large_or_no_json_are_none() -> None:
    for head in (
        wire.HEAD.pack(wire.FRAME, wire.TEXT_BYTES_MAX + 1, 0),
        wire.HEAD.pack(wire.FRAME, 0, wire.DATA_BYTES_MAX + 1),
        wire.HEAD.pack(wire.FRAME, 2, 0) + b"{]",
        wire.HEAD.pack(wire.FRAME, 2, 0) + b"[]",
    ):
        messages = wire.Messages()
        messages.feed(head)
        with pytest.raises(wire.BrokenMessage):
            messages.next()
    with pytest.raises(wire.BrokenMessage, match="its parts 5"):
        wire.parts(memoryview(bytes(4)), [2, 3])


def test_text_and_bfloat16_are_kept_as_check_samples_have_them(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    form = Form("m", "1", {"input.t": "STRING", "output.b": "BF16"}, {"b": (2,)})
    text = b"".join(len(each).to_bytes(4, "little") + each for each in ("aä".encode(), b"", b"b"))
    bits = np.array([0x3F80, 0x7FC0], "<u2")
    body = {
        "form": form_meta(form),
        "frame": frame_meta(sample(1, form=form)),
        "tensors": [("input.t", [3], len(text)), ("output.b", [2], 4)],
        "store": False,
        "group": "s-1",
        "place": 0,
    }
    desk.tell(wire.FRAME, body, text + bits.tobytes())
    (kept,) = read(tmp_path)
    assert kept.inputs["t"].tolist() == ["aä", "", "b"]
    assert kept.outputs["b"].tolist() == bits.tolist()
    item = {"stream": "s-1", "frame_id": 1, "sizes": [4], "weight": 1.0, "source": ""}
    for values, expected in (((0x3F80, 0x7FC0), Joined.INVALID), ((0x3F80, 0xBF80), Joined.JOINED)):
        told = {"call": 7, "principal": "somebody", "any_stream": False, "models": ["*"], "names": {}}
        labels = [item | {"tensors": [("b", "BF16", [2])]}]
        desk.tell(wire.LABELS, told | {"items": labels}, np.array(values, "<u2").tobytes())
        assert desk.answers() == [expected]
