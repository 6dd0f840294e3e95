"""Writes the seeds of the corpora anew: `python -m tests.fuzz.seeds`. What a crash has left is kept by its own name."""

import base64
import io
import json
import random
import struct
import zlib
from math import inf
from pathlib import Path

import numpy as np

from duly.rpc.local import layout
from duly.sampling.files import packed
from duly.sampling.sample import form_meta
from duly.v1 import inference_pb2 as pb
from duly.v1 import tensor_pb2
from duly.worker import channel
from duly.worker.text import write_texts
from tests.encoded_video import units
from tests.fuzz import kserve
from tests.fuzz.pieces import joined
from tests.fuzz.targets import TRUSTED
from tests.rpc.common_messages import HEADS, common
from tests.sampling.made import sample

CORPUS = Path(__file__).parent / "corpus"
TRITON_STORIES = Path(__file__).parents[1] / "models" / "triton" / "stories"


def _frame(number: int, data: bytes = bytes(4), **fields: object) -> pb.Frame:
    tensors = [
        tensor_pb2.Tensor(name="x", datatype=tensor_pb2.DATA_TYPE_UINT8, shape=[2, 2], data=data),
        tensor_pb2.Tensor(name="image", shape=[4, 4, 3], data=bytes(48)),
    ]
    return pb.Frame(frame_id=number, tensors=tensors, **fields)  # type: ignore[arg-type]


def _bare(number: int) -> pb.Frame:
    tensor = tensor_pb2.Tensor(name="x", datatype=tensor_pb2.DATA_TYPE_UINT8, shape=[2, 2], data=bytes(4))
    return pb.Frame(frame_id=number, capture_time_unix_nano=number << 40, tensors=[tensor])


def _encoded(number: int) -> pb.Frame:
    frame = _frame(number)
    del frame.tensors[1]
    frame.encoded.add(name="image", format=tensor_pb2.ENCODED_FORMAT_PNG, data=_png())
    return frame


def _png() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b"")


def _jwt(header: dict[str, object], claims: dict[str, object]) -> bytes:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), bytes(64))
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)


def _strings(*strings: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(string)) + string for string in strings)


def _signature() -> bytes:
    """A signature as ssh-keygen writes it, which fits nothing."""
    public, made = base64.b64decode(TRUSTED.split()[1]), _strings(b"ssh-ed25519", bytes(64))
    blob = b"SSHSIG\0\0\0\1" + _strings(public, b"file", b"", b"sha512", made)
    return b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(blob) + b"\n-----END SSH SIGNATURE-----\n"


def _feedback() -> pb.FeedbackRequest:
    y = tensor_pb2.Tensor(name="y", datatype=tensor_pb2.DATA_TYPE_FP32, shape=[3], data=struct.pack("<3f", 1, 2, 3))
    right = tensor_pb2.Tensor(name="label", datatype=tensor_pb2.DATA_TYPE_STRING, data=write_texts(["cat"]))
    keys = [("s-1", 1), ("s-1", 2), ("s-2", 1)]
    items = [pb.FrameFeedback(stream_key=key, frame_id=nth, labels=[y, right], source="desk") for key, nth in keys]
    return pb.FeedbackRequest(items=items)


def _npz(meta: dict[str, object]) -> bytes:
    """A file of samples that says this of its frames, and has none."""
    file = io.BytesIO()
    np.savez(file, meta=np.array(json.dumps(meta).encode()))
    return file.getvalue()


def _hostile_labels() -> list[bytes]:
    """Labels that would be arrays which nobody can hold."""
    text, numbers = tensor_pb2.DATA_TYPE_STRING, tensor_pb2.DATA_TYPE_FP32
    labels = [
        tensor_pb2.Tensor(name="label", datatype=numbers, shape=[0, 1 << 62]),
        tensor_pb2.Tensor(
            name="label", datatype=text, shape=[20_001], data=write_texts(["x" * 400_000, *[""] * 20_000])
        ),
        tensor_pb2.Tensor(name="label", datatype=text, data=write_texts(["cat\0"])),
    ]
    items = [pb.FrameFeedback(stream_key="s-1", frame_id=1, labels=[label]) for label in labels]
    return [pb.FeedbackRequest(items=[item]).SerializeToString() for item in items]


def _local_tensor(offset: int = 0, size: int = 4, index: int = 0) -> bytes:
    return layout.TENSOR.pack(offset, size, index, 0, 2, 2, 2, *[0] * (layout.EXTENTS - 2))


def _local_frames(first: bytes) -> bytes:
    """A message of two frames with both inputs, one of them encoded, and the memory with a picture."""
    png = _png()
    encoded = layout.TENSOR.pack(64, len(png), 1, layout.ENCODED + 2, 0, *[0] * layout.EXTENTS)
    plain = _local_tensor(1024, 48, 1)
    frames = [layout.FRAME.pack(number, 1, 0, number % 2, 2, 0) for number in (1, 2)]
    message = layout.FRAMES_HEAD.pack(layout.FRAMES, 2, 0) + frames[0] + first + encoded + frames[1] + first + plain
    return struct.pack(">H", len(message)) + message + bytes(64) + png


def _local_row() -> bytes:
    """A message of three frames whose only inputs lie one behind the other, and what lies there."""
    frames = [layout.FRAME.pack(number, 1, 0, 0, 1, 0) + _local_tensor(16 + 4 * number) for number in range(3)]
    message = layout.FRAMES_HEAD.pack(layout.FRAMES, 3, 0) + b"".join(frames)
    return struct.pack(">H", len(message)) + message + bytes(range(32))


def _local_outcomes() -> list[bytes]:
    outcome = layout.OUTCOME.pack(1, *[0] * 8, 1, 1, 1, 1, 7, 0, 0, 0)
    tensor = layout.TENSOR.pack(64, 4, 0, 2, 1, 4, *[0] * (layout.EXTENTS - 1))
    head = layout.OUTCOMES_HEAD.pack(layout.OUTCOMES, 1, 0, 128)
    part = layout.PART_WHOLE.pack(layout.PART, 8, 64, 192)
    end = bytes([layout.END]) + b'{"reason": "DRAINING", "text": "t", "metadata": {"a": "b"}}'
    return [head + outcome + tensor + b"1default", part, end]


def _requests(*requests: pb.StreamRequest) -> bytes:
    return joined([request.SerializeToString() for request in requests])


def seeds() -> dict[str, list[bytes]]:
    """The seeds of each target."""
    frames = pb.StreamRequest(frames=pb.FrameBatch(frames=[_frame(1), _encoded(2), pb.Frame(frame_id=3)]))
    later = pb.StreamRequest(frames=pb.FrameBatch(frames=[_frame(7, budget_nano=1), _frame(9, must_run=True)]))
    alike, alike_later = (
        [pb.StreamRequest(frames=pb.FrameBatch(frames=[_bare(at), _bare(at + 1)])) for at in range(begin, begin + 6, 2)]
        for begin in (1, 20)
    )
    pinged = pb.StreamRequest(clock_ping=pb.ClockPing(ping_id=1))
    cancel = pb.StreamRequest(cancel=pb.CancelFrames(frame_ids=[2, 9, 1 << 63]))
    ping = pb.ClockPing(ping_id=1, client_send_unix_nano=5, clock=pb.ClockEstimate(offset_nano=-5, uncertainty_nano=9))
    opening = pb.OpenStream(
        model="m",
        version="1",
        stream_name="camera",
        stream_class=1,
        backlog_policy=2,
        backlog_frames=3,
        ordering=1,  # type: ignore[arg-type]
        default_budget_nano=10**8,
        expected_period_nano=10**7,
        outputs=["y"],
        gap_policy=1,
        variant_lowest="default",  # type: ignore[arg-type]
        clock=pb.ClockEstimate(offset_nano=1, uncertainty_nano=1),
        floor=pb.OnTimeFloor(frames=1, window=4),
    )
    done = channel.Done(
        7, 1, 2000, 3000, [(channel.OK, [(0, 8, 0, (2,)), (256, 3, 0, (3,))]), (channel.INVALID, [])], {1: "no"}
    )
    run = channel.Run(3, 1, [(5, True, [(0, 8, 0, (2,))]), (6, False, [(64, 3, 2, ())])], 1)
    outcome = pb.Outcome(
        frame_id=1,
        status=1,
        version="1",
        variant="default",
        batch_size=1,
        slack_nano=-5,
        reason="r",  # type: ignore[arg-type]
        timing=pb.Timing(received_unix_nano=1, sent_nano=2),
        outputs=[tensor_pb2.Tensor(name="y", datatype=tensor_pb2.DATA_TYPE_FP32, shape=[2], data=bytes(8))],
    )
    spec = tensor_pb2.TensorSpec(name="x", datatype=tensor_pb2.DATA_TYPE_FP32, shape=[-1], encoded_formats=[1, 2])  # type: ignore[list-item]
    steps = [
        [1, "StreamOpened", {"stream_id": 1, "terms": {"stream_class": 2}}],
        [
            2,
            "FramesArrived",
            {"frames": [{"seq": 1, "stream_id": 1, "frame_id": 1, "model": "m/1", "deadline_ns": 50}]},
        ],
        [["run", 1, "cpu:0", "m/1", "fp32", [1]]],
        [3, "BatchFinished", {"batch_id": 1}],
    ]
    recording = "\n".join(json.dumps(each) for each in [{"duly_recording": 1}, *steps]) + "\n"
    settings = 'models = "/tmp"\nlisten = "127.0.0.1:0"\nlanes = ["cpu:0"]\nthreads = 1\nstreams_max = 64\n'
    model = (
        'default_budget_ms = 100\ndefault_class = "STANDARD"\ndefault_backlog = "LATEST"\nbatch_sizes = [1, 2]\n'
        '[[input]]\nname = "image"\ntensor = "images"\nencodings = ["JPEG", "PNG"]\npreprocess = [\n'
        '{ op = "resize", width = 4, height = 4, mode = "letterbox" }, { op = "layout", axes = "CHW" }]\n'
        '[[variant]]\nname = "fp32"\nfile = "model.onnx"\n[[state]]\noutput = "a"\ninput = "b"\n'
    )
    policy = (
        '[jwt]\nissuer = "https://issuer.test"\naudience = "duly"\njwks = "/nowhere"\n[[principal]]\nname = "camera"\n'
        'may = ["infer"]\nmodels = ["dou*"]\nclasses = ["CRITICAL"]\njwt = [{ subject = "camera-*" }]\n'
        'certificate = [{ spiffe = "spiffe://vehicle/camera/*" }]\nunix = [{ uid = 1 }]\nquota = { streams_max = 4 }\n'
        f'[[principal.token]]\nid = "00c0ffee"\nsha256 = "{64 * "a"}"\nexpires = 2030-01-01T00:00:00Z\n'
    )
    claims = {"iss": "https://issuer.test", "aud": "duly", "sub": "camera-1", "exp": 2**31}
    forged = [_jwt({"alg": alg, "kid": "k1", "typ": "JWT"}, claims) for alg in ("ES256", "none", "HS256")]
    curve = {"kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256", "x": 43 * "A", "y": 43 * "B"}
    pem = b"-----BEGIN CERTIFICATE-----\nMIIBAA==\n-----END CERTIFICATE-----\n"
    secret = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAAA\n-----END PRIVATE KEY-----\n"
    jpeg = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc0000b080004000401011100ffda0008010100003f00")
    location = b"\x0a\x08location\x12\x05w.bin"
    tensor = b"\x08\x02\x10\x01\x42\x01w\x6a" + bytes([len(location)]) + location + b"\x70\x01"
    inner = b"\x2a" + bytes([len(tensor)]) + tensor
    graph = b"\x08\x08\x3a" + bytes([len(inner)]) + inner
    return {
        "stream_messages": [
            b"\x00" + _requests(frames),
            b"\x05" + _requests(frames, cancel, later),
            b"\x02" + _requests(pb.StreamRequest(clock_ping=ping), frames, later),
            *(bytes((9 * inputs,)) + _requests(*alike, pinged, *alike_later) for inputs in (0, 1)),
        ],
        "open_messages": [opening.SerializeToString(), pb.InferRequest(model="m", frame=_frame(1)).SerializeToString()],
        "frame_payloads": [_frame(1).SerializeToString(), _encoded(2).SerializeToString()],
        "common_frames": [
            bytes((kind,)) + common(random.Random(kind), kind, count).SerializeToString()
            for kind in range(len(HEADS))
            for count in (1, 3)
        ],
        "kserve_requests": kserve.request_seeds(),
        "kserve_calls": kserve.call_seeds(),
        "texts": [
            b"\0\3" + write_texts(["", "zwölf", "a\0b"]),
            b"\0\2" + write_texts(["ab"]) + struct.pack("<i", -1),
            b"\0\1" + write_texts(["é"])[:-1],
            b"\xff\xff" + bytes(12),
        ],
        "local_frames": [
            *[_local_frames(tensor) for tensor in (_local_tensor(), _local_tensor(size=9999))],
            _local_row(),
        ],
        "local_outcomes": [joined(_local_outcomes())],
        "worker_answers": [bytes(channel.encode_done(done)), channel.encode_text(channel.FAILED, {"reason": "r"}, 7)],
        "server_orders": [
            bytes(channel.encode_run(run)),
            channel.encode_warm(1, 0, 1),
            channel.encode_forget([1, 2]),
            channel.encode_text(channel.LOAD, {"model": "m/1"}),
        ],
        "recordings": [recording.encode()],
        "server_settings": [settings.encode() + b"\0DULY_STREAMS_MAX=7\0DULY_LANES=cpu:0,cpu:1"],
        "model_settings": [
            model.encode() + b"\0\0cat\ndog\n",
            b"\0\0item {\n id: 1\n name: 'cat'\n}\n",
            b"\0\0- a\n- b\n",
        ],
        "triton_settings": [
            story.read_bytes().partition(b"----\n")[0] for story in sorted(TRITON_STORIES.glob("*.txt"))
        ],
        "manifests": [
            f"{64 * 'a'}  model.onnx\n\\{64 * 'B'} *../model.toml\nSHA256 (x/w.bin) = {64 * '0'}\n".encode(),
            b"\0\0" + _signature() + b"\0\0" + TRUSTED.encode(),
        ],
        "picture_headers": [_png(), jpeg],
        "video_units": [
            b"-" + joined([*units("H264", 4, key_every=2)]),
            b"h" + joined([*units("HEVC", 2)]),
        ],
        "graphs": [graph],
        "addresses": [
            b"127.0.0.1:8500\nhttp_proxy=http://u:p@proxy:3128\nno_proxy=10.0.0.0/8,.lan",
            b"[::1]:80",
            b"dns://1.1.1.1/host:1\ngrpc_proxy=http://[::1]:3",
        ],
        "policies": [policy.encode()],
        "tokens": [*forged, b"duly_00c0ffee_" + 43 * b"x"],
        "key_sets": [json.dumps({"keys": [curve, {"kty": "oct", "k": "AAAA"}]}).encode()],
        "tls_files": [pem + b"\0" + secret + b"\0" + pem],
        "sample_files": [
            packed([sample(1), sample(2)]),
            packed([sample(nth, arrays={"input.x": np.zeros(nth), "output.y": np.zeros(1)}) for nth in (1, 2)]),
            *(_npz(form_meta(sample(1).form) | {"frames": frames}) for frames in ([], [3], [{"pieces": [["s", inf]]}])),
        ],
        "feedback_requests": [_feedback().SerializeToString(), *_hostile_labels()],
        "client_messages": [
            pb.StreamResponse(outcomes=pb.OutcomeBatch(outcomes=[outcome])).SerializeToString(),
            pb.StreamResponse(opened=pb.StreamOpened(stream_id=1, inputs=[spec], outputs=[spec])).SerializeToString(),
            pb.StreamResponse(advice=pb.StreamAdvice(kind=1, period_nano=5, reason="r")).SerializeToString(),  # type: ignore[arg-type]
        ],
    }


if __name__ == "__main__":
    for target, inputs in seeds().items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for index, data in enumerate(inputs):
            (folder / f"seed-{index}").write_bytes(data)
