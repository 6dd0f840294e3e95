"""Where frames come from, and how they are divided."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from duly.models.spec import Signature, TensorSpec
from duly.sampling.files import write
from duly.sampling.sample import Form, Labelled, Sample
from duly_learn.errors import LearnError
from duly_learn.frames import places
from duly_learn.frames.frame import Encoded, LearnFrame
from duly_learn.frames.places import NoFrames, frames_from
from duly_learn.frames.split import NEIGHBOURS_MAX, NEIGHBOURS_NS, neighbours, split


def signature(*inputs: dict[str, Any], stateful: bool = False) -> Signature:
    specs = tuple(TensorSpec.model_validate(spec) for spec in inputs)
    output = TensorSpec(name="y", datatype="FP32", shape=(1,))
    return Signature(inputs=specs, outputs=(output,), batch_sizes=(1,), any_size=True, stateful=stateful)


NUMBERS = signature({"name": "x", "datatype": "FP32", "shape": (4,)})
PICTURES = signature({"name": "image", "datatype": "UINT8", "shape": (-1, -1, 3), "encodings": ("JPEG", "PNG")})
TWO = signature({"name": "a", "datatype": "FP32", "shape": (2,)}, {"name": "b", "datatype": "INT64", "shape": ()})


def rows(frames: list[LearnFrame]) -> list[float]:
    return [float(np.asarray(frame.inputs["x"])[0]) for frame in frames]


def test_arrays_lie_along_the_first_axis(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    frames = frames_from([tmp_path / "x.npy"], NUMBERS, 10, 0)
    assert rows(frames) == [0.0, 4.0, 8.0]
    assert len({frame.stream for frame in frames}) == 1
    assert [frame.when_ns for frame in frames] == sorted(frame.when_ns for frame in frames)


def test_a_file_of_several_inputs_holds_a_frame_in_each_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.zeros((3, 2), np.float32), b=np.int64([7, 8, 9]))
    frames = frames_from([tmp_path / "two.npz"], TWO, 10, 0)
    assert [int(np.asarray(frame.inputs["b"])) for frame in frames] == [7, 8, 9]


def kept(
    root: Path, frame_id: int, when: int, label: float | None, model: str = "m", guards: tuple[str, ...] = ()
) -> None:
    """Writes a frame as a server keeps it."""
    arrays = {"input.image": np.frombuffer(JPEG, np.uint8), "output.y": np.float32([1])}
    form = Form(model, "1", {"input.image": "UINT8", "output.y": "FP32"}, {"y": (1,)})
    kept = Sample(form, "default", "camera-1", frame_id, when, 0, "ON_TIME", "", arrays, {"input.image": "JPEG"})
    kept = replace(kept, guards=guards)
    if label is not None:
        kept = kept.with_labels({"y": np.float32([label])}, {"y": "FP32"}, Labelled(when + 5, "somebody"))
    path = root / f"{model}/samples/g/{frame_id:06}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, [kept], segment=False)


JPEG = b"\xff\xd8\xff and so on"


def test_samples_of_a_server_have_their_encoding_stream_time_and_label(tmp_path: Path) -> None:
    kept(tmp_path, 0, 20, None)
    kept(tmp_path, 1, 10, 7.0)
    for place in (tmp_path, tmp_path / "m", tmp_path / "m/samples/g"):
        frames = frames_from([place], PICTURES, 10, 0)
        assert [frame.inputs["image"] for frame in frames] == [Encoded("JPEG", JPEG)] * 2
        assert [(frame.stream, frame.when_ns) for frame in frames] == [("camera-1", 10), ("camera-1", 20)]
        assert frames[0].label is not None
        assert frames[0].label["y"].tolist() == [7.0]
        assert frames[1].label is None


def test_samples_of_another_model_are_named(tmp_path: Path) -> None:
    kept(tmp_path, 0, 20, None)
    with pytest.raises(NoFrames, match="frame 0 of camera-1 lacks the input x; it has image"):
        frames_from([tmp_path], NUMBERS, 10, 0)


def test_frames_of_other_models_and_flagged_ones_are_passed_over_and_counted(tmp_path: Path) -> None:
    for nth in range(3):
        kept(tmp_path, nth, nth + 1, None)
    kept(tmp_path, 3, 9, None, guards=("blank",))
    kept(tmp_path, 4, 10, None, "other")
    told: list[str] = []
    assert [frame.when_ns for frame in frames_from([tmp_path], PICTURES, 10, 0, "", told.append, "m")] == [1, 2, 3]
    assert told == [
        f"{tmp_path}: 1 frames of other models (other) are passed over",
        f"{tmp_path}: 1 frames on which a guard has found something are passed over",
    ]
    assert len(frames_from([tmp_path], PICTURES, 10, 0, model="m", flagged=True)) == 4


def test_a_model_that_remembers_takes_frames_in_a_row_alone(tmp_path: Path) -> None:
    stateful = PICTURES.model_copy(update={"stateful": True})
    for nth in range(20):
        kept(tmp_path, 3 * nth, nth + 1, None)
    with pytest.raises(NoFrames, match="20 frames are passed over as the 8 in a row with them were not kept"):
        frames_from([tmp_path], stateful, 100, 0)
    for nth in range(200, 210):
        kept(tmp_path, nth, nth, None)
    for nth in range(300, 308):
        kept(tmp_path, nth, nth, None)
    frames = frames_from([tmp_path], stateful, 100, 0)
    assert [frame.when_ns for frame in frames] == [*range(200, 210), *range(300, 308)]
    assert len({frame.stream for frame in frames}) == 2, "between runs the state begins anew"


def test_no_more_bytes_are_kept_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "BYTES_MAX", 160)
    np.save(tmp_path / "x.npy", np.arange(400, dtype=np.float32).reshape(100, 4))
    assert len(frames_from([tmp_path / "x.npy"], NUMBERS, 10, 0)) == 10
    with pytest.raises(LearnError, match="the first 11 frames take 176 bytes"):
        frames_from([tmp_path / "x.npy"], NUMBERS, 100, 0)


def test_pictures_of_a_folder_come_as_they_are_encoded(tmp_path: Path) -> None:
    for nth in range(3):
        cv2.imwrite(str(tmp_path / f"{nth}.png"), np.full((8, 8, 3), nth, np.uint8))
    frames = frames_from([tmp_path], PICTURES, 10, 0)
    assert [type(frame.inputs["image"]) for frame in frames] == [Encoded] * 3
    assert {getattr(frame.inputs["image"], "encoding", "") for frame in frames} == {"PNG"}


def test_text_comes_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    text = signature({"name": "x", "datatype": "STRING", "shape": (1,)})
    frames = frames_from([tmp_path / "lines.txt"], text, 10, 0)
    assert [np.asarray(frame.inputs["x"]).tolist() for frame in frames] == [["one"], ["two"]]


def test_no_more_are_kept_than_asked_for_and_which_is_the_seeds_chance(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(400, dtype=np.float32).reshape(100, 4))
    first, again, other = (rows(frames_from([tmp_path / "x.npy"], NUMBERS, 10, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 10
    assert first == sorted(first)
    assert max(first) > 200


def test_a_model_that_remembers_gets_the_first_frames_of_each_place(tmp_path: Path) -> None:
    stateful = signature({"name": "x", "datatype": "FP32", "shape": (4,)}, stateful=True)
    for name, base in (("a", 0), ("b", 1000)):
        np.save(tmp_path / f"{name}.npy", base + np.arange(400, dtype=np.float32).reshape(100, 4))
    frames = frames_from([tmp_path / "a.npy", tmp_path / "b.npy"], stateful, 5, 0)
    assert rows(frames) == [0.0, 4.0, 8.0, 1000.0, 1004.0]


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 7), np.float32))
    with pytest.raises(NoFrames, match=r"no frame of .*x\.npy fits the model: .*7"):
        frames_from([tmp_path / "x.npy"], NUMBERS, 10, 0)


def test_one_damaged_sample_is_passed_over_and_told(tmp_path: Path) -> None:
    (tmp_path / "0.npz").write_bytes(b"PK no archive")
    np.savez(tmp_path / "1.npz", **{"input.x": np.zeros(4, np.float32)})
    np.savez(tmp_path / "2.npz", **{"input.z": np.zeros(4, np.float32)})
    told: list[str] = []
    assert len(frames_from([tmp_path], NUMBERS, 10, 0, told=told.append)) == 1
    assert "0.npz: is no .npz file" in told[0]
    assert "2.npz: lacks the array input.x; it has input.z" in told[1]


def test_no_place_and_an_empty_place_have_no_frames(tmp_path: Path) -> None:
    with pytest.raises(NoFrames, match="--frames"):
        frames_from([], NUMBERS, 10, 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoFrames, match="empty"):
        frames_from([tmp_path / "empty"], PICTURES, 10, 0)


def test_a_recording_feeds_no_model_with_several_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(NoFrames, match="this one takes a, b: give samples"):
        frames_from([tmp_path / "x.npy"], TWO, 10, 0)


def made(count: int, streams: int = 1) -> list[LearnFrame]:
    return [
        LearnFrame({"x": np.float32([index])}, f"s{stream}", index)
        for stream in range(streams)
        for index in range(count)
    ]


def test_each_frame_is_on_one_side_and_in_its_order() -> None:
    frames = made(100, streams=2)
    fit, judged = split(frames, 0.3, seed=1)
    assert len(judged) == pytest.approx(60, abs=10)
    assert len({*map(id, fit), *map(id, judged)}) == len(fit) + len(judged) > 150
    assert fit == [frame for frame in frames if any(frame is other for other in fit)]


def test_neighbours_are_on_the_same_side_but_at_the_ends_of_blocks() -> None:
    frames = made(100)
    _, judged = split(frames, 0.3, seed=1)
    numbers = {frame.when_ns for frame in judged}
    edges = sum((number in numbers) != (number + 1 in numbers) for number in range(99))
    assert edges <= 6


def test_the_seed_decides() -> None:
    frames = made(100)
    first, again, other = ([frame.when_ns for frame in split(frames, 0.3, seed)[1]] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("count", [2, 3, 5, 11])
@pytest.mark.parametrize("held_out", [0.01, 0.5, 0.99])
def test_neither_side_is_ever_empty(count: int, held_out: float) -> None:
    for seed in range(20):
        fit, judged = split(made(count), held_out, seed)
        assert fit
        assert judged


def test_one_frame_cannot_be_divided() -> None:
    with pytest.raises(LearnError, match="at least two are needed"):
        split(made(1), 0.3, 0)


def test_frames_of_a_stream_that_are_close_are_neighbours() -> None:
    def at(*times_s: float) -> list[int]:
        return neighbours([LearnFrame({}, "s", round(s * NEIGHBOURS_NS)) for s in times_s])

    assert at(0, 0.4, 0.8, 1.2, 5) == [0, 0, 0, 1, 2]
    assert at(0.8, 5, 0) == [0, 1, 0]
    assert len(set(at(0, 0, 0, 0))) == 4, "samples without a time"
    assert neighbours([LearnFrame({}, name, 5) for name in ("a", "b")]) == [0, 1]
    assert max(neighbours(made(100))) + 1 == 100 / NEIGHBOURS_MAX


def test_no_twin_of_a_held_out_frame_is_fitted_to() -> None:
    frames = [LearnFrame({}, "s", nth * NEIGHBOURS_NS // 10) for nth in range(1000)]
    for seed in range(5):
        fit, judged = split(frames, 0.3, seed)
        times = np.array([frame.when_ns for frame in judged])
        assert min(np.abs(times - frame.when_ns).min() for frame in fit) > NEIGHBOURS_NS
        assert len(fit) >= 600
    far = [LearnFrame({}, "s", nth * 2 * NEIGHBOURS_NS) for nth in range(100)]
    assert sum(map(len, split(far, 0.3, 0))) == 100, "what is far apart has no twins"
    unknown = [LearnFrame({}, "s", 0)] * 100
    assert sum(map(len, split(unknown, 0.3, 0))) == 100
