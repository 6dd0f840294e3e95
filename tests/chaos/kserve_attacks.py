"""Hostile clients of KServe's protocol; `tests.chaos.attacks` runs them."""

import contextlib
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from duly.rpc.kserve import messages as ks
from tests.chaos import http2
from tests.chaos.http2 import Gone, Raw, framed, message

if TYPE_CHECKING:
    from tests.chaos.attacks import Field

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
INFER = "/inference.GRPCInferenceService/ModelInfer"
BIG = 900_000
"""Elements of a large output: 3.6 MB."""


def request(model: str = "double", size: int = 4, rows: int = 1, **parameters: int | bool) -> ks.ModelInferRequest:
    asked = ks.ModelInferRequest(model_name=model, id="r")
    asked.inputs.add(name="x", datatype="FP32", shape=[rows, size])
    asked.raw_input_contents.append(bytes(4 * size * rows))
    for name, value in parameters.items():
        if isinstance(value, bool):
            asked.parameters[name].bool_param = value
        else:
            asked.parameters[name].int64_param = value
    return asked


def kserve_silent_calls(field: "Field") -> None:
    """Calls of ModelStreamInfer that ask nothing, as many as there may be and more."""
    raws: list[Raw] = []
    while field.on:
        with contextlib.suppress(Gone):
            if len(raws) < 8:
                raws.append(field.connect())
            raw = field.chance.choice(raws)
            try:
                for _ in range(16):
                    raw.call(STREAM)
                    field.counts["silent calls"] += 1
                raw.drain(0)
            except Gone:
                raws.remove(raw)
        time.sleep(0.02)


def kserve_bad_requests(field: "Field") -> None:
    """Requests that are refused, as fast as they are taken, by one call that reads and one that does not."""
    kinds = [request("nothing"), request(size=5), request(timeout=-1), request(sequence_start=True), request(rows=3)]
    bodies = [message(kind) for kind in kinds]
    while field.on:
        with contextlib.suppress(Gone):
            raw, deaf = field.connect(), field.connect(window=200)
            stream, other = raw.call(STREAM), deaf.call(STREAM)
            while field.on:
                raw.send(stream, field.chance.choice(bodies))
                raw.drain(0)
                with contextlib.suppress(Gone):
                    deaf.send(other, field.chance.choice(bodies), wait_s=0)
                field.counts["bad requests"] += 1


def kserve_overfull(field: "Field") -> None:
    """Messages of a million empty inputs, and of as many extents."""
    inputs = message(b"\n\6double" + b"\x2a\0" * 1_000_000)
    extents = request()
    extents.inputs[0].shape[:] = [1] * 390_000
    bodies = [inputs, message(extents)]
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            while field.on:
                raw.send(raw.call(STREAM), bodies[field.counts["messages"] % 2])
                raw.drain(0)
                field.counts["messages"] += 1


def kserve_slow_reader(field: "Field") -> None:
    """Asks for large outputs and does not read them."""
    asked = ks.ModelInferRequest(model_name="large", id="r")
    asked.inputs.add(name="x", datatype="INT64", shape=[1, 1])
    asked.raw_input_contents.append(struct.pack("<q", BIG))
    body = message(asked)
    raws: list[Raw] = []
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect(window=1000)
            raws.append(raw)
            stream = raw.call(STREAM)
            while field.on:
                raw.send(stream, body, wait_s=0.5)
                field.counts["requests"] += 1
                time.sleep(0.003)
    for raw in raws:
        raw.close()


def kserve_terms(field: "Field") -> None:
    """Asks for other terms with each request, so that each needs a stream of its own."""
    number = 0
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            stream = raw.call(STREAM)
            while field.on:
                number += 1
                raw.send(stream, message(request(period_us=1_000_000 + number, priority=3)))
                raw.drain(0)
                field.counts["terms"] += 1


def kserve_resets(field: "Field") -> None:
    """Calls that are reset at once, in every state: before their request, with half of it, and after it."""
    body = message(request())
    while field.on:
        with contextlib.suppress(Gone):
            raw = field.connect()
            while field.on:
                stream = raw.call(field.chance.choice((STREAM, INFER)))
                cut = field.chance.choice((0, len(body) // 2, len(body)))
                raw.send(stream, body[:cut])
                raw.write(framed(http2.RST_STREAM, 0, stream, struct.pack(">I", 8)))
                raw.drain(0)
                field.counts["resets"] += 1
                time.sleep(0.0005)


KSERVE_ATTACKS: dict[str, "Callable[[Field], None]"] = {
    attack.__name__: attack
    for attack in (
        kserve_silent_calls,
        kserve_bad_requests,
        kserve_overfull,
        kserve_slow_reader,
        kserve_terms,
        kserve_resets,
    )
}
