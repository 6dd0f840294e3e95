"""A version in a real worker process, as those see it who measure it."""

from pathlib import Path

import numpy as np
import pytest

from duly.models.repository import Repository
from duly_learn.frames.frame import Array, Encoded, LearnFrame
from duly_learn.running.model import FrameRefused, NotRunning, Refusal, running
from duly_learn.running.seen import GraphView
from tests import graphs
from tests.worker.client import version_of


def frame(*values: float, stream: str = "s") -> LearnFrame:
    return LearnFrame({"x": np.float32(values)}, stream, 0)


def test_frames_get_their_answers_alone_and_in_batches(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling(("N", 2)), "batch_sizes = [1, 3]")
    frames = [frame(n, -n) for n in range(7)]
    with running(version_of(tmp_path, "double")) as model:
        alone, together = model.answers(frames), model.answers(frames, batch=3)
        assert {size: len(times) for size, times in model.times_ns.items()} == {1: 3, 3: 3}
        assert model.time_ns(frames[:3]) > 0
    assert [answer["y"].tolist() for answer in alone] == [[2 * n, -2 * n] for n in range(7)]
    assert [answer["y"].tolist() for answer in together] == [answer["y"].tolist() for answer in alone]


def test_pre_and_postprocessing_are_those_of_the_model(tmp_path: Path) -> None:
    toml = """
        [[input]]
        name = "image"
        tensor = "x"
        encodings = ["PNG"]
        preprocess = [
            { op = "resize", width = 2, height = 2 },
            { op = "normalise", scale = 0.5 },
            { op = "layout" },
        ]
    """
    graphs.save(tmp_path, "copy", graphs.copying(("N", 3, 2, 2)), toml)
    picture = np.full((8, 8, 3), 10, np.uint8)
    encoded = Encoded("PNG", png(picture))
    frames = [LearnFrame({"image": value}, "s", 0) for value in (picture, encoded)]
    with running(version_of(tmp_path, "copy")) as model:
        assert [answer["y"].tolist() for answer in model.answers(frames)] == [np.full((3, 2, 2), 5.0).tolist()] * 2
    sights = list(GraphView(version_of(tmp_path, "copy")).of(frames))
    assert [sight.inputs["x"].tolist() for sight in sights] == [np.full((1, 3, 2, 2), 5.0).tolist()] * 2
    assert [sight.outputs["y"].tolist() for sight in sights] == [np.full((1, 3, 2, 2), 5.0).tolist()] * 2


def test_a_frame_that_does_not_fit_is_refused_and_the_others_run(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling(("N", 2)))
    frames = [frame(1, 2), frame(1, 2, 3), frame(np.nan, 0), frame(3, 4)]
    with running(version_of(tmp_path, "double")) as model:
        given = model.outcomes(frames, batch=4)
        assert [isinstance(each, Refusal) for each in given] == [False, True, True, False]
        assert "shape [3], the model takes [2]" in str(given[1])
        assert "NaN" in str(given[2])
        with pytest.raises(FrameRefused, match=r"double/1: frame 1 of s: input 'x': shape \[3\]"):
            model.answers(frames)


def test_streams_of_a_model_with_state_begin_anew_at_each_call(tmp_path: Path) -> None:
    graphs.save(tmp_path, "sum", graphs.summing(), SUMMING)
    frames = [frame(1, 1, stream=stream) for stream in ("a", "b", "a", "a")]
    version = version_of(tmp_path, "sum")
    with running(version) as model:
        for _ in range(2):
            assert [answer["y"].tolist()[0] for answer in model.answers(frames, batch=4)] == [1.0, 1.0, 2.0, 3.0]
    sights = list(GraphView(version).of(frames))
    assert [sight.inputs["total"].tolist() for sight in sights] == [[[0, 0]], [[0, 0]], [[1, 1]], [[2, 2]]]


def test_thousands_of_streams_of_a_model_with_state_are_forgotten(tmp_path: Path) -> None:
    """A message for each of them at once would fill the worker's socket, and a worker keeps no more than 5,000."""
    graphs.save(tmp_path, "sum", graphs.summing(), SUMMING)
    frames = [frame(1, 1, stream=str(nth)) for nth in range(2700)]
    with running(version_of(tmp_path, "sum")) as model:
        for _ in range(2):
            assert model.answers(frames)[-1]["y"].tolist() == [1.0, 1.0]


def test_a_long_stream_of_a_model_with_state(tmp_path: Path) -> None:
    graphs.save(tmp_path, "sum", graphs.summing(), SUMMING)
    frames = [frame(1, 1) for _ in range(500)]
    with running(version_of(tmp_path, "sum")) as model:
        for _ in range(2):
            assert model.answers(frames)[-1]["y"].tolist() == [500.0, 500.0]


SUMMING = """
[[state]]
output = "total_next"
input = "total"
"""


def test_one_variant_is_loaded_and_no_other(tmp_path: Path) -> None:
    toml = """
        [[variant]]
        name = "exact"
        file = "model.onnx"
        [[variant]]
        name = "rough"
        file = "rough.onnx"
    """
    graphs.save(tmp_path, "two", graphs.doubling(("N", 2)), toml)
    graphs.save(tmp_path, "two", graphs.copying(("N", 2)), file="rough.onnx")
    version = version_of(tmp_path, "two")
    for variant, factor in ((None, 2), ("exact", 2), ("rough", 1)):
        with running(version, variant) as model:
            assert model.answers([frame(3, 4)])[0]["y"].tolist() == [3 * factor, 4 * factor]
    with pytest.raises(NotRunning, match="two/1: has no variant fast; it has exact, rough"), running(version, "fast"):
        pass


def test_check_samples_do_not_judge_a_variant_that_is_measured(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling(("N", 2)))
    checks = tmp_path / "double/1/checks"
    checks.mkdir()
    np.savez(checks / "wrong.npz", **{"input.x": np.float32([1, 1]), "output.y": np.float32([9, 9])})
    with running(version_of(tmp_path, "double")) as model:
        assert model.answers([frame(1, 1)])[0]["y"].tolist() == [2.0, 2.0]


def test_a_graph_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling(("N", 2)), "batch_sizes = [1]\n[[output]]\nname = 'z'")
    with pytest.raises(NotRunning, match="z"), running(version_of(tmp_path, "double")):
        pass


def test_another_signature_than_expected_is_named(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling(("N", 2)))
    graphs.save(tmp_path, "wide", graphs.doubling(("N", 5)))
    with running(version_of(tmp_path, "wide")) as model:
        expected = model.signature
    with (
        pytest.raises(NotRunning, match=r"its input 'x' is FP32\[2\]"),
        running(version_of(tmp_path, "double"), expected=expected),
    ):
        pass


def test_a_graph_that_fails_on_a_frame_says_so(tmp_path: Path) -> None:
    graphs.save(tmp_path, "pick", graphs.picking())
    frames = [LearnFrame({"x": np.int64(value)}, "s", 0) for value in (1, 9)]
    with running(version_of(tmp_path, "pick")) as model:
        given = model.outcomes(frames)
    assert given[0] == {"y": np.float32(20)}
    assert isinstance(given[1], Refusal)
    assert str(given[1])


def test_labels_stand_at_the_outputs_that_have_them(tmp_path: Path) -> None:
    graphs.save(tmp_path, "double", graphs.doubling(("N", 2)), 'labels = "names.txt"')
    (tmp_path / "double/names.txt").write_text("cat\ndog\n")
    version = next(iter(Repository(tmp_path).scan()[0]))
    with running(version) as model:
        assert model.signature.outputs[0].labels == ("cat", "dog")
        with running(version, expected=model.signature) as again:
            assert again.signature == model.signature


def png(picture: Array) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", picture)[1])
