"""A function for each reader of bytes from outside. It returns whatever the bytes are, and raises where the reader
raises anything but what it says, or says what is not so.
"""

import contextlib
import os
import shutil
import struct
import tempfile
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from duly import config_sources
from duly.access.errors import AccessError, NotAuthenticated
from duly.access.evidence import Evidence
from duly.access.judge import Judge
from duly.access.key_set import read_keys
from duly.access.listeners import Listener
from duly.access.policy import read_policy
from duly.access.tls_files import read_tls
from duly.addresses import split_host_port
from duly.core.types import BacklogPolicy
from duly.models.config_file import check_settings, read_config
from duly.models.errors import BrokenModel
from duly.models.labels import read_labels
from duly.models.manifest import ManifestError, check_keys, check_signature, parse_manifest
from duly.models.spec import Signature, TensorSpec
from duly.models.toml_text import toml_text
from duly.models.triton.config_pbtxt import read_pbtxt
from duly.rpc.duly_v1.codec import FrameReader
from duly.rpc.duly_v1.feedback import labels_sent
from duly.rpc.duly_v1.inference_service import STREAM_REQUEST
from duly.rpc.duly_v1.opening import single_request, stream_request
from duly.rpc.local import frames as local
from duly.rpc.local.areas import FrameArea
from duly.runtime.answers import Answers, Asked, BrokenAnswer
from duly.runtime.recording import RecordingError, read_recording
from duly.sampling.drawn import DrawnFolder
from duly.sampling.files import BrokenFile, read_file
from duly.sampling.limits import DrawnLimits, StoreLimits
from duly.sampling.segments import ModelStore
from duly.sampling.store import read
from duly.sampling.wire import Joined
from duly.streams.errors import CallError, InvalidFrame, InvalidTerms
from duly.streams.inputs import InputChecks
from duly.streams.ordering import OrderingPolicy
from duly.streams.rights import Rights
from duly.streams.terms import stream_terms
from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2
from duly.worker import channel
from duly.worker.decode import texts as read_text_input
from duly.worker.errors import InvalidFrame as UnreadableFrame
from duly.worker.errors import LoadError
from duly.worker.external_data import take_in
from duly.worker.picture_header import picture_header
from duly.worker.picture_size import SCANS_MAX, beyond, picture_size
from duly.worker.text import write_texts
from duly.worker.video import VideoDecoders
from duly.worker.video_units import pack
from duly_client import local_wire, proxy, target
from duly_client.convert import tensor_array
from duly_client.errors import ProtocolError
from duly_client.texts import text_bytes, texts_of
from duly_client.types import advice_of, outcome_of, terms_of
from tests.access.credentials import AUDIENCE, ISSUER, jwks
from tests.fuzz.kserve import kserve_calls, kserve_requests, served
from tests.fuzz.labelling import Labelling
from tests.fuzz.pieces import MESSAGES_MAX, parts, runner
from tests.fuzz.surface import ONE_INPUT, SIGNATURE, Surface
from tests.rpc.common_messages import HEADS
from tests.rpc.common_messages import check as check_message
from tests.streams.bench import LIMITS, version

TRUSTED = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINrwurehC1c23hKEn8hPTilyhOJPK5EEimiQm8SqlDyc"
"""A public key whose private one nobody has kept."""

VIDEO_INPUT = TensorSpec(name="x", datatype="UINT8", shape=(-1, -1, 3), encodings=("H264", "HEVC"), pixels_max=1 << 16)

TEXT = Signature(
    inputs=(TensorSpec(name="x", datatype="STRING", shape=(-1,), bytes_max=1 << 20),),
    outputs=(),
    batch_sizes=(1,),
    any_size=True,
    stateful=False,
)

Target = Callable[[bytes], None]


def close() -> None:
    """Gives back what the targets have made."""
    runner().close()
    for made in (runner, served, _surface, _judge, _local_area, _labelling):
        made.cache_clear()
    shutil.rmtree(_scratch())
    _scratch.cache_clear()


@cache
def _surface(inputs: int) -> Surface:
    return Surface(runner(), ONE_INPUT if inputs == 1 else SIGNATURE)


@cache
def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="duly-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))


def _file(name: str, data: bytes) -> Path:
    path = _scratch() / name
    path.write_bytes(data)
    return path


def stream_messages(data: bytes) -> None:
    """Messages of a client on an open stream, with all of the law."""
    if data:
        backlog, order = data[0] % 3 + 1, data[0] // 3 % 3 + 1
        asked = {
            "backlog_policy": BacklogPolicy(backlog),
            "backlog_frames": 3 if backlog == BacklogPolicy.KEEP_LAST else 0,
            "ordering": OrderingPolicy(order),
        }
        messages = parts(data[1:], MESSAGES_MAX)
        for message in messages:  # which the server does for long ones alone
            with contextlib.suppress(CallError):
                STREAM_REQUEST.check(message)
        _surface(data[0] // 9 % 2 + 1).run(messages, **asked)


def open_messages(data: bytes) -> None:
    """The first message of a stream, and a single frame."""
    for kind, asked in ((pb.OpenStream, stream_request), (pb.InferRequest, single_request)):
        try:
            request = asked(kind.FromString(data))  # type: ignore[operator]
            served = version()
            terms = stream_terms(request, served, LIMITS.stream, "somebody")
            assert 0 < terms.budget_ns <= LIMITS.stream.budget_ns_max, terms
        except (DecodeError, InvalidTerms):
            continue


def frame_payloads(data: bytes) -> None:
    try:
        frame = pb.Frame.FromString(data)
        payload, size = FrameReader(SIGNATURE).payload(frame)
    except (DecodeError, InvalidFrame):
        return
    assert len(payload) == len(SIGNATURE.inputs)
    assert size == sum(len(each.data) for each in payload)
    for each, spec in zip(payload, SIGNATURE.inputs, strict=True):
        assert len(each.data) <= spec.bytes_max, (spec, each)


def texts(data: bytes) -> None:
    """A tensor of text, after the number of its elements: the server and the client read the same, or neither does."""
    count, data = int.from_bytes(data[:2], "big"), data[2:]
    try:
        frame = InputChecks(TEXT).tensor(0, "STRING", (count,), data)
        array = read_text_input(memoryview(frame.data), "", frame.shape, TEXT.inputs[0])
    except (InvalidFrame, UnreadableFrame) as error:
        assert str(error).startswith("input 'x': "), error
        array = None
    try:
        received = texts_of(data, (count,))
    except ValueError:
        received = None
    if array is None or received is None:
        assert array is received, (array, received)
        return
    assert array.tolist() == received.tolist()
    assert write_texts(array.tolist()) == data == text_bytes(received)


def common_frames(data: bytes) -> None:
    """Messages of frames that are read without protobuf: as protobuf reads them, or not at all. The first byte says
    which frames came before.
    """
    if data:
        check_message(data[1:], data[0] % len(HEADS))


LOCAL_AREA_BYTES = 4096


@cache
def _local_area() -> FrameArea:
    return FrameArea(1, LOCAL_AREA_BYTES)


def local_frames(data: bytes) -> None:
    """FRAMES messages of the local transport, of the length that the first two bytes say, and what lies in memory."""
    area, size = _local_area(), int.from_bytes(data[:2], "big")
    message, memory = data[2 : 2 + size], data[2 + size :]
    os.pwrite(area.fd, memory[:LOCAL_AREA_BYTES].ljust(LOCAL_AREA_BYTES, b"\0"), 0)
    reader = local.FrameReader(SIGNATURE, area)
    try:
        frames = reader.described(memoryview(message))
    except CallError as error:
        assert error.reason == "MESSAGE_MALFORMED"
        return
    for _, _, _, _, tensors, size_bytes, encoded_bytes in frames:
        assert encoded_bytes <= size_bytes
        assert all(offset + rest[0] <= LOCAL_AREA_BYTES for offset, rest in tensors)
        with contextlib.suppress(InvalidFrame):
            payload = reader.payload(SIGNATURE, tensors)
            for each, spec in zip(payload, SIGNATURE.inputs, strict=True):
                assert len(each.data) <= spec.bytes_max, (spec, each)
                assert any(os.pread(area.fd, rest[0], offset) == each.data for offset, rest in tensors), each
    one = local.FrameReader(ONE_INPUT, area)  # arrays that lie one behind the other are read at once
    for *_, tensors, _, _ in one.described(memoryview(message)):
        with contextlib.suppress(InvalidFrame):
            ((_, _, read),) = one.payload(ONE_INPUT, tensors)
            ((offset, rest),) = tensors
            assert os.pread(area.fd, rest[0], offset) == read, tensors


def local_outcomes(data: bytes) -> None:
    """What a server sends to a client of the local transport: pieces, each of them a message."""
    area = memoryview(bytearray(b"\1" * LOCAL_AREA_BYTES))
    reader = local_wire.OutcomeReader(area, pb.StreamOpened(outputs=[tensor_pb2.TensorSpec(name="y")]))
    try:
        for message in parts(data, MESSAGES_MAX):
            kind = message[0] if message else 0
            if kind == local_wire.OUTCOMES:
                for each in reader.outcomes(message):
                    outcome = outcome_of(each, 1)
                    assert outcome.status.name
                    assert outcome.timing
                    for tensor in each.outputs:
                        assert tensor_array(tensor).nbytes == len(tensor.data)
            elif kind == local_wire.PART:
                reader.part(message)
            elif kind == local_wire.END:
                local_wire.end_of(message)
    except ProtocolError as error:
        assert str(error)


_ANSWERED = Signature(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(2,), bytes_max=8),),
    outputs=(
        TensorSpec(name="y", datatype="FP32", shape=(2,), bytes_max=8),
        TensorSpec(name="z", datatype="UINT8", shape=(-1,), bytes_max=16),
    ),
    batch_sizes=(1, 4),
    any_size=True,
    stateful=False,
)


@cache
def _region() -> channel.Region:
    return channel.Region.create(4096, 4096)


@cache
def _answers() -> Answers:
    return Answers(_ANSWERED, _region())


def worker_answers(data: bytes) -> None:
    """What a worker answers to a batch of two frames. A message of nothing is the end of its socket."""
    if not data:
        return
    asked = Asked(7, 1, 2, 1000)
    try:
        result = _answers().read(data, asked, 10_000)
    except BrokenAnswer:
        return
    if isinstance(result, str):
        return
    assert 1000 <= result.started_ns <= result.finished_ns <= 10_000
    for index in range(2):
        if index not in result.invalid and index not in result.failed:
            (_, shape, y), (_, other, z) = result.outputs(index)
            assert len(y) == 4 * int(np.prod(shape)) <= 8, (shape, y)
            assert len(z) == int(np.prod(other)) <= 16, (other, z)


def server_orders(data: bytes) -> None:
    """What the server tells a worker: it is not read wrongly, and what was read is written alike."""
    for inputs in (1, 2):
        try:
            run = channel.decode_run(data, inputs)
            again = channel.decode_run(bytes(channel.encode_run(run)), inputs)
        except (struct.error, ValueError):
            continue
        assert again == run
    try:
        channel.decode_text(data)
        channel.decode_warm(data)
        channel.decode_forget(data)
    except (struct.error, ValueError, RecursionError):
        pass


def recordings(data: bytes) -> None:
    try:
        for step in read_recording(_file("recording", data)):
            assert isinstance(step.now_ns, int)
    except RecordingError:
        pass


def server_settings(data: bytes) -> None:
    """The TOML file of `duly serve`, its environment and its command line."""
    words = data.split(b"\0")
    path = _file("duly.toml", words[0])
    pairs = [word.decode("utf-8", "replace").partition("=") for word in words[1:4]]
    environ = {name: value for name, _, value in pairs}
    try:
        checked = config_sources.load_config({"models": _scratch()}, path, environ)
        assert checked.streams_max > 0
    except config_sources.ConfigError as error:
        assert str(error)


def model_settings(data: bytes) -> None:
    """model.toml, and the names of a model's classes."""
    folder = _scratch() / "model"
    folder.mkdir(exist_ok=True)
    settings, _, labels = data.partition(b"\0\0")
    (folder / "model.toml").write_bytes(settings)
    (folder / "labels.txt").write_bytes(labels)
    for reading in (lambda: read_config(folder), lambda: read_labels(folder, "labels.txt")):
        try:
            reading()
        except BrokenModel as error:
            assert str(error)
            assert str(folder) not in str(error), error


def triton_settings(data: bytes) -> None:
    """Triton's config.pbtxt, and the model.toml that says the same."""
    folder = _scratch() / "triton"
    folder.mkdir(exist_ok=True)
    (folder / "config.pbtxt").write_bytes(data)
    try:
        config = read_pbtxt(folder).config
    except BrokenModel as error:
        assert str(error).startswith("/config.pbtxt: ")
        assert str(folder) not in str(error), error
        return
    assert check_settings(tomllib.loads(toml_text(config))) == config


def manifests(data: bytes) -> None:
    """The list of what a version's files hold, its signature, and the keys that are trusted."""
    text, signature, keys = ([*data.split(b"\0\0"), b"", b""])[:3]
    try:
        for name, digest in parse_manifest(text).items():
            assert len(digest) == 64
            assert not name.startswith("/")
            assert ".." not in name.removeprefix("../").split("/"), name
    except ManifestError as error:
        assert str(error)
    with contextlib.suppress(ManifestError):
        assert all(len(key) == 32 for key in check_keys(keys.decode("utf-8", "replace").splitlines()))
    try:
        check_signature(b"what nobody has signed", signature, [TRUSTED])
    except ManifestError as error:
        assert str(error)
        return
    raise AssertionError("a signature fits what nobody has signed")


def picture_headers(data: bytes) -> None:
    for encoding in ("PNG", "JPEG"):
        header = picture_header(memoryview(data), encoding)
        assert header is None or header.bits >= 0
        size = picture_size(data, encoding)
        assert size is None or size.pixels > 0
        if size is not None:
            assert size.work >= size.pixels
            assert bool(beyond(size, size.pixels, encoding)) == (encoding == "JPEG" and size.passes > SCANS_MAX)


def video_units(data: bytes) -> None:
    """Access units of one stream, whose decoder has to live with all of them."""
    encoding = "HEVC" if data[:1] == b"h" else "H264"
    decoders = VideoDecoders()
    for frame_id, unit in enumerate(parts(data[1:], MESSAGES_MAX)):
        payload = memoryview(pack(1, frame_id, [unit]))
        try:
            picture = decoders.picture(1, 0, encoding, payload, VIDEO_INPUT)
        except UnreadableFrame as error:
            assert str(error)
        else:
            assert picture.shape[2] == 3
            assert 0 < picture.size <= 3 * VIDEO_INPUT.pixels_max


def graphs(data: bytes) -> None:
    """An ONNX file, as far as its external data is looked for."""

    def read(location: str) -> memoryview:
        return memoryview(bytes(64))

    with contextlib.suppress(LoadError, DecodeError):
        take_in(data, read)


def addresses(data: bytes) -> None:
    """Addresses, targets and proxies, as people and their environments write them."""
    text, _, environment = data.decode("utf-8", "replace").replace("\0", "").partition("\n")
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.endswith("_proxy")}
    try:
        for line in environment.split("\n")[:4]:
            name, _, value = line.partition("=")
            if name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
                os.environ[name] = value.encode("utf-8", "replace").decode()
        said = proxy.through_proxy(text)
        assert "\n" not in said
        proxy.channel_options(text)
    finally:
        for name in [name for name in os.environ if name.endswith("_proxy")]:
            del os.environ[name]
        os.environ.update(before)
    try:
        host, port = split_host_port(text)
        assert host
        assert 0 <= port <= 65535
    except ValueError:
        pass
    try:
        target.check_target(text)
    except ValueError as error:
        assert str(error)


def client_messages(data: bytes) -> None:
    """What a server sends to the client."""
    try:
        response = pb.StreamResponse.FromString(data)
    except DecodeError:
        return
    try:
        match response.WhichOneof("response"):
            case "opened":
                terms_of(response.opened)
            case "advice":
                advice_of(response.advice)
            case "outcomes":
                for message in response.outcomes.outcomes:
                    outcome = outcome_of(message, 1)
                    assert outcome.status.name
                    for tensor in message.outputs:
                        array = tensor_array(tensor)
                        assert array.nbytes == len(tensor.data)
    except ProtocolError as error:
        assert str(error)


def policies(data: bytes) -> None:
    """The policy file, and what a caller is by it."""
    try:
        policy = read_policy(_file("policy.toml", data))
    except AccessError as error:
        assert str(error)
        return
    with contextlib.suppress(NotAuthenticated):
        _judged(Judge(policy), Evidence("10.0.0.1"))


@cache
def _judge() -> Judge:
    """A judge who knows one issuer and one token, whose keys nobody else has."""
    keys = _file("jwks.json", jwks("k1").encode())
    text = f"""
[jwt]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
jwks = "{keys}"

[[principal]]
name = "somebody"
jwt = [{{ subject = "*" }}]
[[principal.token]]
id = "00c0ffee"
sha256 = "{64 * "a"}"
"""
    judge = Judge(read_policy(_file("known.toml", text.encode())))
    assert judge.keys is not None
    runner().run(judge.keys.start())
    return judge


def _judged(judge: Judge, evidence: Evidence) -> str:
    return runner().run(judge.judge(evidence, Listener(admin=True))).rights.principal


def tokens(data: bytes) -> None:
    """What a caller sends as its token: nobody knows a right one."""
    judge = _judge()
    try:
        who = _judged(judge, Evidence("10.0.0.1", data.decode("utf-8", "replace") or "?"))
    except NotAuthenticated as error:
        assert str(error)
        return
    raise AssertionError(f"somebody was let in as {who}")


def key_sets(data: bytes) -> None:
    try:
        read_keys(str(_file("keys.json", data)))
    except AccessError as error:
        assert str(error)


def sample_files(data: bytes) -> None:
    """A file of frames that were kept."""
    with contextlib.suppress(BrokenFile):
        for sample in read_file(_file("0.npz", data)):
            assert sample.arrays.keys() == sample.form.datatypes.keys()
    folder = Path(tempfile.mkdtemp(dir=_scratch()))
    try:  # and as a writer finds it at its start
        for place in ("samples/s-1/000000.npz", "frames/000000000001.npz", "labelled/000000000001.npz"):
            (folder / "m" / place).parent.mkdir(parents=True)
            (folder / "m" / place).write_bytes(data)
        DrawnFolder(folder, DrawnLimits(1 << 30, 4), {})
        ModelStore(folder / "m", StoreLimits(1 << 30, 1e12), 0.0)
        list(read(folder))
    finally:
        shutil.rmtree(folder)


@cache
def _labelling() -> Labelling:
    return Labelling(Path(tempfile.mkdtemp(dir=_scratch())))


def feedback_requests(data: bytes) -> None:
    """Labels of a client, for frames that are there and for others: each has one answer."""
    try:
        items = labels_sent(data)
        answers = runner().run(_labelling().desk.take(Rights("somebody"), items))
    except CallError as error:
        assert error.reason in ("MESSAGE_MALFORMED", "MESSAGE_OVERFULL", "INVALID_REQUEST")
        return
    assert len(answers) == len(items)
    for (status, reason), item in zip(answers, items, strict=True):
        assert bool(reason) == (status is not Joined.JOINED)
        known = (item.stream_key, item.frame_id) in Labelling.KEYS
        assert status in ((Joined.JOINED, Joined.INVALID) if known else (Joined.UNKNOWN_FRAME, Joined.INVALID))


def tls_files(data: bytes) -> None:
    """Certificate, key and the CA of clients, in PEM."""
    certificates, key, authority = ([*data.split(b"\0"), b"", b""])[:3]
    paths = [_file(f"{index}.pem", part) for index, part in enumerate((certificates, key, authority))]
    try:
        read_tls(*paths)
    except AccessError as error:
        assert str(error)


TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (
        stream_messages,
        open_messages,
        frame_payloads,
        texts,
        common_frames,
        kserve_requests,
        kserve_calls,
        local_frames,
        local_outcomes,
        worker_answers,
        server_orders,
        recordings,
        server_settings,
        model_settings,
        triton_settings,
        manifests,
        picture_headers,
        video_units,
        graphs,
        addresses,
        client_messages,
        policies,
        tokens,
        key_sets,
        tls_files,
        sample_files,
        feedback_requests,
    )
}
