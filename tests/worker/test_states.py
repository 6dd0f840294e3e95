"""What a worker remembers between two frames of a stream: the real voice activity detector, and a running sum."""

import os
import socket
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from duly.worker import handed_state
from duly.worker.channel import INVALID, OK
from duly.worker.states import StateTensor, StreamStates
from tests import graphs
from tests.worker import real
from tests.worker.client import BatchFailed, Encoded, Worker, version_of

pytestmark = pytest.mark.holds_on(
    "cpu", why="OpenVINO compiles no graph of open rank, as Silero's is; WebGPU of ONNX Runtime 1.27 gets it wrong"
)

CHUNK = 512
CONTEXT = 64


@pytest.fixture(scope="module")
def vad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Worker(version_of(real.vad(tmp_path_factory.mktemp("vad")), "vad")) as worker:
        yield worker


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Chunks of a real conversation, [n, 512] int16."""
    with wave.open(str(real.asset("sample.wav"))) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16000, 1, 2)
        samples = np.frombuffer(sound.readframes(CHUNK * 300), np.int16)
    return samples.reshape(-1, CHUNK)


def by_hand(chunks: np.ndarray) -> list[float]:
    """The detector's answers with state and context kept by the caller, chunk after chunk."""
    session = onnxruntime.InferenceSession(real.asset("silero_vad.onnx"), providers=["CPUExecutionProvider"])
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros(CONTEXT, np.float32)
    answers = []
    for chunk in chunks:
        window = np.concatenate([context, chunk.astype(np.float32) / 32768])
        output, state = session.run(
            ["output", "stateN"], {"input": window[None], "state": state, "sr": np.array(16000)}
        )
        answers.append(float(output[0, 0]))
        context = window[-CONTEXT:]
    return answers


def pcm(chunk: np.ndarray) -> Encoded:
    return Encoded("PCM_S16LE", chunk.tobytes())


def ask(worker: Worker, chunks: np.ndarray, stream: int) -> list[float]:
    return [float(worker.run([[pcm(chunk)]], [stream])[0].outputs["speech"][0]) for chunk in chunks]


def test_signature_of_the_detector(vad: Worker) -> None:
    (audio,) = vad.signature.inputs
    assert (audio.shape, audio.datatype, audio.encodings, audio.sample_rate_hz) == (
        (512,),
        "FP32",
        ("PCM_S16LE",),
        16000,
    )
    assert vad.signature.stateful


def test_stream_follows_the_model_run_by_hand(vad: Worker, speech: np.ndarray) -> None:
    expected = by_hand(speech)
    assert min(expected) < 0.1 < 0.9 < max(expected)  # there is speech, and there is none
    np.testing.assert_allclose(ask(vad, speech, stream=100), expected, atol=1e-5)


def test_floats_and_pcm_are_the_same_sound(vad: Worker, speech: np.ndarray) -> None:
    answers = [vad.run([[chunk.astype(np.float32) / 32768]], [101])[0].outputs["speech"][0] for chunk in speech[:20]]
    np.testing.assert_allclose(answers, by_hand(speech[:20]), atol=1e-5)


def test_streams_in_one_batch_do_not_mix(vad: Worker, speech: np.ndarray) -> None:
    one, other = speech[50:90], speech[90:130]
    answers: dict[int, list[float]] = {201: [], 202: []}
    for step, (a, b) in enumerate(zip(one, other, strict=True)):
        order = (201, 202) if step % 3 else (202, 201)  # a stream has no place of its own in the batch
        chunks = {201: a, 202: b}
        for stream, outcome in zip(
            order, vad.run([[pcm(chunks[s])] for s in order], order, slot=step % 2), strict=True
        ):
            answers[stream].append(float(outcome.outputs["speech"][0]))
    np.testing.assert_allclose(answers[201], by_hand(one), atol=1e-5)
    np.testing.assert_allclose(answers[202], by_hand(other), atol=1e-5)


def test_reset_and_forget_start_a_stream_anew(vad: Worker, speech: np.ndarray) -> None:
    chunks = speech[50:60]
    fresh = ask(vad, chunks, stream=301)
    again = ask(vad, chunks, stream=301)
    assert not np.allclose(fresh, again, atol=1e-5)
    reset = vad.run([[pcm(chunks[0])]], [301], resets=[True])[0].outputs["speech"]
    np.testing.assert_allclose([float(reset[0]), *ask(vad, chunks[1:], stream=301)], fresh, atol=1e-5)
    vad.forget(301)
    np.testing.assert_allclose(ask(vad, chunks, stream=301), fresh, atol=1e-5)


def test_frame_that_is_not_run_leaves_state_and_context_as_they_were(vad: Worker, speech: np.ndarray) -> None:
    chunks = speech[50:58]
    fresh = ask(vad, chunks, stream=401)
    answers = []
    for index, chunk in enumerate(chunks):
        if index == 4:
            bad = [Encoded("PCM_S16LE", chunk.tobytes()[:-1]), Encoded("PCM_S16LE", b""), Encoded("JPEG", b"x")]
            for payload in (*bad, np.full(CHUNK, np.nan, np.float32), np.zeros(CHUNK - 1, np.float32)):
                outcome, beside = vad.run([[payload], [pcm(chunk)]], [402, 403])
                assert (outcome.status, beside.status) == (INVALID, OK)
        answers.append(float(vad.run([[pcm(chunk)]], [402])[0].outputs["speech"][0]))
    np.testing.assert_allclose(answers, fresh, atol=1e-5)


def test_sound_of_the_wrong_length_says_so(vad: Worker) -> None:
    outcomes = vad.run([[Encoded("PCM_S16LE", bytes(1023))], [Encoded("PCM_S16LE", bytes(1000))]])
    assert [outcome.reason for outcome in outcomes] == [
        "input 'audio': 1023 bytes are no whole number of 16-bit samples",
        "input 'audio' has shape [500], wanted is [512]",
    ]


@pytest.mark.parametrize("axis", [0, 1])
def test_running_sum_in_batches_of_changing_size(tmp_path: Path, axis: int) -> None:
    graphs.save(tmp_path, "sum", graphs.summing(axis), graphs.SUMMING + f"batch_axis = {axis}\n")
    generator = np.random.default_rng(axis)
    totals = np.zeros((6, 2), np.float32)
    with Worker(version_of(tmp_path, "sum")) as worker:
        assert [spec.name for spec in worker.signature.outputs] == ["y"]
        for _ in range(40):
            streams = generator.permutation(6)[: generator.integers(1, 7)].tolist()
            values = generator.integers(0, 10, (len(streams), 2)).astype(np.float32)
            resets = (generator.random(len(streams)) < 0.2).tolist()
            for stream, value, reset in zip(streams, values, resets, strict=True):
                totals[stream] = value + (0 if reset else totals[stream])
            outcomes = worker.run([[value] for value in values], streams, resets)
            for stream, outcome in zip(streams, outcomes, strict=True):
                np.testing.assert_array_equal(outcome.outputs["y"], totals[stream])


def test_failed_batch_changes_no_state(tmp_path: Path) -> None:
    # The sum of what `pick` gives for an index: an index of 4 or more fails the batch.
    pick, add = graphs.picking().graph.node[0], graphs.summing().graph.node[0]
    pick.output[0] = "picked"
    add.input[0] = "picked"
    proto = graphs.model(
        [pick, add],
        [graphs.value("x", ["N"], graphs.INT64), graphs.value("total", ["N"])],
        [graphs.value("total_next", ["N"])],
        {"table": np.float32([10, 20, 30, 40])},
    )
    copy = proto.graph.node.add(op_type="Identity", input=["total_next"], output=["y"])
    assert copy.output[0] == "y"
    proto.graph.output.append(graphs.value("y", ["N"]))
    graphs.save(tmp_path, "m", proto, graphs.SUMMING)
    with Worker(version_of(tmp_path, "m")) as worker:
        worker.run([[np.int64(0)], [np.int64(1)]], [1, 2])
        with pytest.raises(BatchFailed):
            worker.run([[np.int64(0)], [np.int64(4)]], [1, 2])
        outcomes = worker.run([[np.int64(0)], [np.int64(1)]], [1, 2])
        assert [float(outcome.outputs["y"]) for outcome in outcomes] == [20, 40]


def test_a_stream_beyond_the_bound_has_no_room_and_costs_no_other_its_state() -> None:
    tensor = StateTensor("s", "s_next", 0, (1, 2), np.dtype(np.float32))
    streams = StreamStates([tensor], streams_max=3)

    def run(stream: int, value: float) -> list[float]:
        """One frame: gives the state that it found and leaves `value`."""
        found = tensor.batch(1)
        streams.gather([stream], [found])
        streams.remember(stream, 0, [np.full((1, 2), value, np.float32)], {})
        return found[0].tolist()

    for stream in (1, 2, 3):
        assert streams.has_room(stream)
        assert run(stream, stream) == [0, 0]
    assert not streams.has_room(4)
    assert [run(stream, 0) for stream in (1, 2, 3)] == [[1, 1], [2, 2], [3, 3]]
    streams.forget(2)
    assert streams.has_room(4)


def test_what_is_kept_of_a_stream_goes_on_elsewhere(vad: Worker, speech: np.ndarray) -> None:
    """State and the end of the sound are given once, and whoever takes them goes on as if nothing had happened."""
    chunks = speech[40:52]
    first = ask(vad, chunks[:6], 901)
    fd = handed_state.new_memory(2 * vad.signature.state_bytes)
    places = [(901, 0), (902, vad.signature.state_bytes)]
    socket.send_fds(vad.socket, [handed_state.encode_give(5, places)], [fd])
    assert handed_state.decode_state(vad.socket.recv(1000), 5, 2) == [True, False]
    handed_state.seal(fd)
    with pytest.raises(OSError, match="not permitted"):
        os.pwrite(fd, b"x", 0)
    socket.send_fds(vad.socket, [handed_state.encode_take([(903, 0)])], [fd])
    os.close(fd)
    assert first + ask(vad, chunks[6:], 903) == pytest.approx(by_hand(chunks), abs=1e-5)
    assert ask(vad, chunks[6:7], 901) == pytest.approx(by_hand(chunks[6:7]), abs=1e-5)  # it is new again
