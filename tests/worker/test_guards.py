"""Input guards in a worker: what they find on frames, what they let pass, and which of them a model cannot have."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from onnx import helper

from duly.models.guards import Frozen
from duly.worker.channel import INVALID, MESSAGE_BYTES_MAX, OK, Done, decode_done, encode_done, frames_of_message
from duly.worker.guards import GuardPlan, GuardWatch, InputWatch
from duly.worker.look import Look, Looker, look_of_row
from tests import graphs
from tests.worker.client import Encoded, Worker, version_of
from tests.worker.loading import reason_of
from tests.worker.test_read_apart import SPEC, picture, read, reader

STREAMS = [1, 2, 3, 4]
FINE = np.float32([1, 2, 3, 4])


def guard(kind: str, **settings: object) -> str:
    lines = [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in settings.items()
    ]
    return "\n".join(["[[guard]]", f'kind = "{kind}"', *lines, ""])


def worker_of(root: Path, toml: str, proto: object = None) -> Worker:
    graphs.save(root, "m", proto or graphs.doubling(), toml)  # type: ignore[arg-type]
    return Worker(version_of(root, "m"))


def guards_of(worker: Worker, *values: object, stream: int = 1) -> list[tuple[str, ...]]:
    """What was found on frames of one stream, each in a batch of its own."""
    return [worker.run([[value]], [stream])[0].guards for value in values]  # type: ignore[list-item]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    toml = (
        guard("RANGE", min=-100, max=100)
        + guard("BLANK", spread_max=0.5)
        + guard("SATURATED", high=50)
        + guard("FROZEN")
        + guard("FINITE")
        + '[[input]]\nname = "x"\nfinite = false\n'
    )
    with worker_of(tmp_path_factory.mktemp("watched"), toml) as worker:
        yield worker


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1, 2, 3, 4], ()),
        ([-100, 2, 3, 49], ()),
        ([-101, 2, 3, 4], ("range",)),
        ([1, 2, 3, 101], ("range",)),
        ([5, 5, 5, 5.1], ("blank",)),
        ([60, 50, 3, 4], ()),
        ([60, 70, 80, 4], ("saturated",)),
        ([200, 200, 200, 200], ("range", "blank", "saturated")),
        ([1, np.nan, 3, 4], ("range", "finite")),
        ([1, 2, np.inf, 4], ("range", "finite")),
    ],
)
def test_what_is_found_on_a_frame_is_flagged_and_its_result_is_there(
    watched: Worker, values: list[float], found: tuple[str, ...]
) -> None:
    (outcome,) = watched.run([[np.float32(values)]], [9])
    watched.forget(9)
    assert (outcome.status, outcome.reason, outcome.guards) == (OK, "", found)
    np.testing.assert_array_equal(outcome.outputs["y"], 2 * np.float32(values))


def test_each_frame_of_a_batch_has_its_own_flags(watched: Worker) -> None:
    frames = [FINE, np.float32([0, 0, 0, 0]), FINE * 30, np.float32([1, 2, 3, np.nan])]
    outcomes = watched.run([[frame] for frame in frames], [11, 12, 13, 14])
    assert [outcome.guards for outcome in outcomes] == [(), ("blank",), ("range", "saturated"), ("range", "finite")]


def test_a_frame_that_repeats_those_before_it_is_frozen(watched: Worker) -> None:
    other = FINE + 1
    frozen: tuple[str, ...] = ("frozen",)
    assert guards_of(watched, FINE, FINE, FINE, FINE, other, FINE, FINE, FINE) == [
        *[(), (), frozen, frozen],
        *[(), (), (), frozen],
    ]
    # Of another stream nothing is known, and within a batch frames follow one another too.
    outcomes = watched.run([[FINE]] * 4, [2, 1, 2, 2])
    assert [outcome.guards for outcome in outcomes] == [(), frozen, (), frozen]
    watched.forget(1, 2)
    assert guards_of(watched, FINE, FINE) == [(), ()]
    assert watched.run([[FINE]], [1], [True])[0].guards == ()  # a reset begins the stream anew
    assert guards_of(watched, FINE, FINE) == [(), frozen]
    watched.forget(1)


def test_the_workers_own_frames_are_not_judged(watched: Worker) -> None:
    for _ in range(4):
        watched.warm()
        assert watched.run([[np.zeros(4, np.float32)]], [0])[0].guards == ()


def test_a_frame_may_be_invalid_with_what_was_found_and_what_is_allowed(tmp_path: Path) -> None:
    toml = (
        guard("RANGE", min=-10, max=10, action="INVALID", name="volts")
        + guard("BLANK", spread_max=0.25, action="INVALID")
        + guard("SATURATED", low=-5, high=5, share_max=0.25, action="INVALID")
        + guard("FROZEN", repeats_max=0, action="INVALID")
    )
    with worker_of(tmp_path, toml) as worker:
        frames = ([-11, 0, 1, 2], [0, 1, 2, 12.5], [1, 1, 1, 1], [5, 6, 1, 2], [-5, -6, 1, 2], [1, 2, 3, 4])
        outcomes = worker.run([[np.float32(values)] for values in frames], range(1, 7))
        (again,) = worker.run([[FINE]], [6])
    assert [outcome.status for outcome in outcomes] == [INVALID] * 5 + [OK]
    assert [outcome.reason for outcome in outcomes] == [
        "input 'x': the least element is -11, at least -10 is allowed (guard 'volts' in model.toml)",
        "input 'x': the largest element is 12.5, at most 10 is allowed (guard 'volts' in model.toml)",
        "input 'x': the frame is blank: its elements have a standard deviation of 0, more than 0.25 is allowed "
        "(guard 'blank' in model.toml)",
        "input 'x': the frame is saturated: 50.0% of its elements lie at the upper end of what the sensor can say, "
        "at most 25.0% is allowed (guard 'saturated' in model.toml)",
        "input 'x': the frame is saturated: 50.0% of its elements lie at the lower end of what the sensor can say, "
        "at most 25.0% is allowed (guard 'saturated' in model.toml)",
        "",
    ]
    assert [outcome.guards for outcome in outcomes] == [
        *[("volts",), ("volts",), ("blank",), ("saturated",), ("saturated",), ()],
    ]
    np.testing.assert_array_equal(outcomes[5].outputs["y"], 2 * FINE)  # whose row was moved up
    assert (again.status, again.guards) == (INVALID, ("frozen",))
    assert again.reason.startswith(
        "input 'x': the frame is frozen: it repeats the ones before it of its stream 1 times in a row, at most 0 is"
    )


def test_check_samples_and_warm_up_are_no_concern_of_guards(tmp_path: Path) -> None:
    graphs.save(tmp_path, "m", graphs.doubling(), guard("BLANK", action="INVALID") + "[checks]\nsamples_min = 1\n")
    (tmp_path / "m/1/checks").mkdir()
    zeros = np.zeros(4, np.float32)
    np.savez(tmp_path / "m/1/checks/zeros.npz", **{"input.x": zeros, "output.y": zeros})
    with Worker(version_of(tmp_path, "m")) as worker:
        assert worker.run([[zeros]], [1])[0].status == INVALID


# ---- pictures, sound, text ----


def test_pictures_are_judged_as_they_were_sent(tmp_path: Path) -> None:
    toml = guard("BLANK") + guard("SATURATED") + guard("FROZEN", repeats_max=0) + guard("RANGE", max=254)
    toml += (
        '[[input]]\nname = "x"\nencodings = ["PNG"]\n'
        'preprocess = [{ op = "resize", width = 8, height = 8, mode = "letterbox" }, '
        '{ op = "normalise", scale = 0.01, mean = [5.0, 6.0, 7.0] }, { op = "layout", axes = "CHW" }]\n'
    )
    random = np.random.default_rng(1)
    noise = random.integers(20, 200, (40, 90, 3)).astype(np.uint8)
    red = np.zeros((300, 300, 3), np.uint8)
    red[..., 2] = 200
    dark = (random.random((30, 30, 3)) < 0.5).astype(np.uint8)
    bright = np.where(random.random((500, 700, 3)) < 0.7, 255, noise[:1, :1]).astype(np.uint8)

    def png(pixels: np.ndarray) -> Encoded:
        return Encoded("PNG", cv2.imencode(".png", pixels)[1].tobytes(), pixels.shape)

    with worker_of(tmp_path, toml, graphs.copying(("N", 3, 8, 8))) as worker:
        found = guards_of(worker, png(noise), png(noise), png(red), png(dark), png(bright), noise)
    # A plain colour has nothing on it, though its channels differ, and a letterbox around it changes nothing.
    assert found == [(), ("frozen",), ("blank", "saturated"), ("blank", "saturated"), ("saturated", "range"), ()]


def test_sound_is_judged_between_minus_one_and_one(tmp_path: Path) -> None:
    toml = guard("BLANK") + guard("SATURATED", share_max=0.1) + guard("FROZEN", repeats_max=0)
    toml += '[[input]]\nname = "x"\nencodings = ["PCM_S16LE"]\n'
    toml += 'preprocess = [{ op = "window", samples = 64, context = 8 }]\n'
    wave = (8000 * np.sin(np.arange(64))).astype("<i2")
    loud = np.clip(wave.astype(int) * 9, -32768, 32767).astype("<i2")
    with worker_of(tmp_path, toml, graphs.copying(("N", 72))) as worker:
        sounds = [Encoded("PCM_S16LE", sound.tobytes(), (64,)) for sound in (wave, wave, loud, wave * 0)]
        # The row of the second one differs from that of the first, as it begins with the end of that.
        assert guards_of(worker, *sounds) == [(), ("frozen",), ("saturated",), ("blank",)]


@pytest.mark.holds_on("cpu", why="texts stay on the CPU")
def test_text_can_be_frozen(tmp_path: Path) -> None:
    with worker_of(tmp_path, guard("FROZEN", repeats_max=0), graphs.joining_texts(("N", 2))) as worker:
        texts = [np.array(words, object) for words in (["a", "bc"], ["ab", "c"], ["ab", "c"])]
        assert guards_of(worker, *texts) == [(), (), ("frozen",)]


def test_rows_of_any_size_and_frames_that_run_apart_are_judged_alike(tmp_path: Path) -> None:
    toml = guard("RANGE", max=10, action="INVALID") + guard("BLANK")
    with worker_of(tmp_path / "free", toml, graphs.doubling(("N", "K"))) as worker:
        frames = [np.float32([1, 2]), np.float32([1, 2, 30]), np.float32([4, 4, 4, 4]), np.float32([5, 6])]
        outcomes = worker.run([[frame] for frame in frames], STREAMS)
    assert [(outcome.status, outcome.guards) for outcome in outcomes] == [
        *[(OK, ()), (INVALID, ("range",)), (OK, ("blank",)), (OK, ())],
    ]
    np.testing.assert_array_equal(outcomes[3].outputs["y"], [10, 12])
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]), helper.make_node("Sub", ["x", "mean"], ["y"])]
    centred = graphs.model(nodes, [graphs.value("x", ["N", 4])], [graphs.value("y", ["N", 4])])
    with worker_of(tmp_path / "apart", toml, centred) as worker:
        outcomes = worker.run([[FINE], [FINE * 9], [FINE * 0]], [1, 2, 3])
    assert [(outcome.status, outcome.guards) for outcome in outcomes] == [
        *[(OK, ()), (INVALID, ("range",)), (OK, ("blank",))],
    ]


def test_of_an_input_of_no_elements_nothing_is_found(tmp_path: Path) -> None:
    toml = guard("RANGE", min=1, max=10) + guard("BLANK", spread_max=3) + guard("SATURATED", low=0, high=9)
    with worker_of(tmp_path, toml, graphs.doubling(("N", "K"))) as worker:
        nothing = np.zeros(0, np.float32)
        outcomes = worker.run([[nothing], [np.float32([0, 0])], [nothing]], [1, 2, 3])
    assert [(outcome.status, outcome.guards) for outcome in outcomes] == [
        *[(OK, ()), (OK, ("range", "blank", "saturated")), (OK, ())],
    ]
    assert outcomes[0].outputs["y"].shape == (0,)


@pytest.mark.holds_on("cpu", "openvino", why="WebGPU's provider has no BF16")
def test_bfloat16_is_judged_by_its_numbers(tmp_path: Path) -> None:
    with worker_of(tmp_path, guard("RANGE", max=3) + guard("BLANK"), graphs.doubling_halves()) as worker:
        halves = [(np.float32(values).view(np.uint32) >> 16).astype(np.uint16) for values in ([1, 2, 3, 0], [4] * 4)]
        assert guards_of(worker, *halves) == [(), ("range", "blank")]


def test_a_stateful_model_remembers_nothing_of_an_invalid_frame(tmp_path: Path) -> None:
    toml = graphs.SUMMING + guard("RANGE", max=10, action="INVALID")
    with worker_of(tmp_path, toml, graphs.summing()) as worker:
        outcomes = [worker.run([[np.float32([1, value])]], [1])[0] for value in (1, 11, 2)]
    assert [outcome.status for outcome in outcomes] == [OK, INVALID, OK]
    np.testing.assert_array_equal(outcomes[2].outputs["y"], [2, 3])


# ---- the detector in the graph ----


def scored(root: Path, toml: str = "", **settings: object) -> Worker:
    return worker_of(root, toml + guard("DISTRIBUTION", output="score", **settings), graphs.scored())


def test_a_score_is_judged_and_no_client_sees_it(tmp_path: Path) -> None:
    with scored(tmp_path, max=4.0) as worker:
        assert [spec.name for spec in worker.signature.outputs] == ["y"]
        assert worker.signature.guards == ("distribution",)
        for size in (1, 3, 4):
            frames = [[np.float32([0, 0, 0, index + 2.5])] for index in range(size)]
            found = [outcome.guards for outcome in worker.run(frames, STREAMS[:size])]
            assert found == [("distribution",) if index + 2.5 > 4 else () for index in range(size)]


def test_a_score_may_make_a_frame_invalid(tmp_path: Path) -> None:
    finite = '[[input]]\nname = "x"\nfinite = false\n'
    with scored(tmp_path, finite, action="INVALID", max=4.0) as worker:
        outcomes = worker.run([[FINE], [FINE + 1], [FINE * np.nan]], [1, 2, 3])
        (own,) = worker.run([[FINE + 1]], [0])
    assert [outcome.status for outcome in outcomes] == [OK, INVALID, INVALID]
    assert outcomes[1].reason == (
        "the frame is not like those that the model was fitted to: its score is 5, at most 4 is allowed (guard "
        "'distribution' in model.toml)"
    )
    assert "its score is NaN" in outcomes[2].reason
    assert (own.status, own.guards) == (OK, ())


def test_a_score_of_frames_of_any_size(tmp_path: Path) -> None:
    toml = '[[output]]\nname = "result"\ntensor = "y"\n' + guard("DISTRIBUTION", output="score", max=4.0)
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("ReduceMax", ["x"], ["score"], axes=[1], keepdims=0),
    ]
    proto = graphs.model(
        nodes, [graphs.value("x", ["N", "K"])], [graphs.value("y", ["N", "K"]), graphs.value("score", ["N"])]
    )
    with worker_of(tmp_path, toml, proto) as worker:
        outcomes = worker.run([[np.float32([1, 2])], [np.float32([1, 2, 7])], [np.float32([3, 2])]], [1, 2, 3])
    assert [outcome.guards for outcome in outcomes] == [(), ("distribution",), ()]
    np.testing.assert_array_equal(outcomes[1].outputs["result"], [2, 4, 14])


def test_a_detector_that_looks_across_the_batch_makes_frames_run_one_after_another(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "x"], ["y"]),
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]),
        helper.make_node("Sub", ["x", "mean"], ["off"]),
        helper.make_node("ReduceMax", ["off"], ["score"], axes=[1]),
    ]
    proto = graphs.model(
        nodes, [graphs.value("x", ["N", 4])], [graphs.value("y", ["N", 4]), graphs.value("score", ["N", 1])]
    )
    with worker_of(tmp_path, guard("DISTRIBUTION", output="score"), proto) as worker:
        assert "run one after another" in worker.ready["notes"][0]
        assert [outcome.guards for outcome in worker.run([[FINE], [FINE * 50]], [1, 2])] == [(), ()]


# ---- what a model cannot have ----


@pytest.mark.holds_on("cpu", why="texts stay on the CPU")
@pytest.mark.parametrize(
    ("toml", "proto", "reason"),
    [
        (guard("BLANK", input="z"), None, "guard[0].input: the model has no input 'z'; it has: x"),
        (
            guard("BLANK"),
            graphs.stereo(),
            "guard[0].input: the model has several inputs, left, right; say which one it",
        ),
        (guard("BLANK") + guard("BLANK", name="b"), None, "guard[1]: guard[0] is a BLANK guard of input 'x' already"),
        (guard("FINITE"), None, "guard[0]: a frame with NaN or infinity is INVALID anyway; say finite = false for"),
        (
            guard("FINITE"),
            graphs.copying(("N", 4), graphs.UINT8),
            "guard[0]: input 'x' is UINT8, which is always finite; leave it out",
        ),
        (guard("SATURATED"), None, "guard[0]: input 'x' is FP32, which has no ends; state low, high or both"),
        (guard("BLANK"), graphs.joining_texts(), "guard[0]: input 'x' is text, of which only FROZEN can tell anything"),
        (
            guard("DISTRIBUTION", output="score"),
            None,
            "guard[0].output: the graph has no output 'score'; it has: y; a detector is fitted into the graph by duly",
        ),
        (
            guard("DISTRIBUTION", output="score") + '[[output]]\nname = "score"\n',
            graphs.scored(),
            "guard[0].output: 'score' is output 'score', and a detector's score is nothing else",
        ),
        (
            guard("DISTRIBUTION", output="score") + guard("DISTRIBUTION", output="score", name="again"),
            graphs.scored(),
            "guard[1].output: 'score' is the score of another guard already; keep one",
        ),
        (
            guard("DISTRIBUTION", output="y") + '[[output]]\nname = "z"\n',
            graphs.two_outputs(100),
            "guard[0].output: 'y' has shape ['N', 100]; a score is one number for each frame, or at most 64",
        ),
        (
            guard("DISTRIBUTION", output="label") + '[[output]]\nname = "scores"\n',
            graphs.sorting_reviews(),
            "guard[0].output: 'label' is STRING; a score is floating point",
        ),
        (guard("DISTRIBUTION", output="y"), None, "output: nothing is left to send; name one"),
    ],
)
def test_a_guard_that_cannot_be_is_refused_at_load(tmp_path: Path, toml: str, proto: object, reason: str) -> None:
    graphs.save(tmp_path, "m", proto or graphs.doubling(), toml)  # type: ignore[arg-type]
    assert f"m/model.toml: {reason}" in reason_of(tmp_path, "m")


def test_a_variant_without_the_detector_is_refused(tmp_path: Path) -> None:
    toml = guard("DISTRIBUTION", output="score")
    toml += '[[variant]]\nname = "a"\n[[variant]]\nname = "b"\nfile = "b.onnx"\n'
    graphs.save(tmp_path, "m", graphs.scored(), toml)
    graphs.save(tmp_path, "m", graphs.doubling(), file="b.onnx")
    assert "m/model.toml for b.onnx: guard[0].output: the graph has no output 'score'" in reason_of(tmp_path, "m")


# ---- the parts ----


def frozen_watch(streams_max: int) -> GuardWatch:
    looker = Looker(digest=True)
    watch = InputWatch("x", looker, ((0, Frozen(kind="FROZEN", repeats_max=0)),), 0.0)
    return GuardWatch(GuardPlan(("frozen",), (watch,)), streams_max)


def test_so_many_streams_are_remembered_and_the_one_seen_longest_ago_starts_anew() -> None:
    watch = frozen_watch(3)

    def is_frozen(stream: int) -> bool:
        watch.begin()
        watch.seen(0, stream, 0, Look(digest=7))
        return bool(watch.found)

    assert [is_frozen(stream) for stream in (1, 2, 3, 1)] == [False, False, False, True]
    assert not is_frozen(4)
    assert len(watch) == 3
    assert [is_frozen(stream) for stream in (1, 3, 4)] == [True, True, True]
    assert not is_frozen(2)
    watch.forget(4)
    assert len(watch) == 2


@given(some.integers(1, 300), some.data())
def test_flags_go_over_the_channel_as_they_are(count: int, data: some.DataObject) -> None:
    flags = data.draw(some.dictionaries(some.integers(0, count - 1), some.integers(1, 0xFFFF)))
    reasons = data.draw(some.dictionaries(some.integers(0, count - 1), some.text(max_size=20)))
    frames = [(INVALID, []) if index in reasons else (OK, [(16 * index, 16, 0, (4,))]) for index in range(count)]
    done = Done(7, 1, 2, 3, frames, reasons, [0] * count, data.draw(some.booleans()), flags or None)
    assert decode_done(encode_done(done), 1) == done


@pytest.mark.parametrize("tensors", [1, 3, 40])
def test_a_message_has_room_for_the_flags_of_all_frames(tensors: int) -> None:
    count = frames_of_message(tensors)
    frames = [(OK, [(0, 4, 0, (1,))] * tensors)] * count
    done = Done(1, 0, 2, 3, frames, {}, [], False, dict.fromkeys(range(count), 0xFFFF))
    message = encode_done(done)
    assert len(message) <= MESSAGE_BYTES_MAX
    assert decode_done(message, tensors).flags == done.flags


def test_a_frame_that_is_read_beside_the_lanes_brings_what_guards_need() -> None:
    looker = Looker(extremes=True, spread=True, low=0, high=255, digest=True)
    wanted: list[Look] = []
    made = reader()
    made.read(
        memoryview(picture()),
        "PNG",
        (),
        None,
        None,
        lambda value: wanted.append(looker.look(value, memoryview(picture()))),
    )
    _, row, _ = read(picture(), [InputWatch(SPEC.name, looker, (), 0.0)])
    assert look_of_row(memoryview(row)) == wanted[0]
    assert wanted[0].spread > 70
    assert wanted[0].digest


@pytest.mark.parametrize(
    "shape", [(500, 700, 3), (3, 500, 700), (500, 700), (70_000,), (1, 1, 1), (0, 3, 3), (7, 5, 2)]
)
def test_large_frames_are_looked_at_by_elements_that_are_evenly_spread(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    look = Looker(extremes=True, spread=True, low=63.5, high=191.5).look(values, None)
    if values.size > 1000:
        assert (look.least, look.largest) == (0, 255)
        assert look.spread == pytest.approx(73.9, rel=0.02)
        assert (look.low_share, look.high_share) == (pytest.approx(0.25, abs=0.01), pytest.approx(0.25, abs=0.01))
