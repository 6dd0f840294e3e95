"""Requests of KServe's protocol that are drawn: as clients write them, and with anything in them that nobody should
write. What is drawn follows from bytes, so that a fuzzer finds its way, or from a seed.
"""

from collections.abc import Callable, Sequence
from math import prod
from random import Random
from typing import TypeVar

from duly.models.spec import ELEMENT_BYTES, Signature, TensorSpec
from duly.rpc.kserve import messages as ks

_T = TypeVar("_T")


def _spec(name: str, datatype: str, shape: tuple[int, ...], batched: bool, bytes_max: int = 64) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape, bytes_max=bytes_max, batched=batched)  # type: ignore[arg-type]


PLAIN = Signature(
    inputs=(_spec("x", "UINT8", (2, 3), False), _spec("mask", "BOOL", (-1,), False)),
    outputs=(_spec("y", "FP32", (3,), False), _spec("z", "INT64", (-1,), False)),
    batch_sizes=(1,),
    any_size=True,
    stateful=False,
)
ROWS = Signature(
    inputs=(_spec("x", "FP32", (2,), True), _spec("open", "INT16", (-1, 2), True)),
    outputs=(_spec("y", "FP64", (2,), True),),
    batch_sizes=(1, 4),
    any_size=True,
    stateful=False,
)
SUM = Signature(
    inputs=(_spec("x", "INT64", (2,), True),),
    outputs=(_spec("y", "UINT16", (4,), True),),
    batch_sizes=(1, 4),
    any_size=True,
    stateful=True,
)
TEXT = Signature(
    inputs=(_spec("x", "STRING", (2,), True),),
    outputs=(_spec("y", "INT8", (-1,), True),),
    batch_sizes=(1, 4),
    any_size=True,
    stateful=False,
)
MODELS = {"plain": PLAIN, "rows": ROWS, "sum": SUM, "text": TEXT}
DATATYPES = ("", "BOOL", "INT8", "UINT64", "FP16", "BF16", "FP32", "FP64", "INT64", "BYTES", "x" * 300)
EXTENTS = (-1, 0, 1, 2, 3, 4, 5, 100, 1 << 31, (1 << 63) - 1, -(1 << 63))
NUMBERS = (0, 1, 2, 3, -1, 4, 1000, 5_000_000, 1 << 31, 1 << 62, (1 << 63) - 1, -(1 << 63))
TEXTS = ("", "ALL", "LATEST", "KEEP_LAST:3", "KEEP_LAST:0", "KEEP_LAST:99999999999", "a", "b", "é" * 20, "x" * 200)
PARAMETERS = (
    "timeout",
    "budget_us",
    "priority",
    "period_us",
    "capture_time_us",
    "backlog",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "duly_outcomes",
    "triton_enable_empty_final_response",
    "headers",
)
OF_TENSORS = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "classification", "own")
LISTS = (
    "bool_contents",
    "int_contents",
    "int64_contents",
    "uint_contents",
    "uint64_contents",
    "fp32_contents",
    "fp64_contents",
    "bytes_contents",
)


class Draw:
    """Draws from bytes: each choice takes one, and is the first one when none is left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @classmethod
    def seeded(cls, seed: int, choices: int = 200) -> "Draw":
        return cls(Random(seed).randbytes(choices))

    @property
    def left(self) -> bool:
        return self._at < len(self._data)

    def below(self, count: int) -> int:
        self._at += 1
        return self._data[self._at - 1] % count if self._at <= len(self._data) else 0

    def of(self, choices: Sequence[_T]) -> _T:
        return choices[self.below(len(choices))]

    def bytes(self, count: int) -> bytes:
        return bytes(self.below(256) for _ in range(count))


def valid(draw: Draw) -> ks.ModelInferRequest:
    """A request that fits its model."""
    name = draw.of(tuple(MODELS))
    signature = MODELS[name]
    request = ks.ModelInferRequest(model_name=name, model_version=draw.of(("", "1")), id=draw.of(("a", "b", "", "c")))
    rows = draw.of((1, 2, 4)) if signature.batched else 0
    typed = draw.below(3) == 0
    for spec in signature.inputs:
        shape = [draw.below(3) if extent == -1 else extent for extent in spec.shape]
        datatype = {"STRING": "BYTES"}.get(spec.datatype, spec.datatype)
        tensor = request.inputs.add(name=spec.name, datatype=datatype, shape=[rows, *shape] if rows else shape)
        count = prod(tensor.shape)
        if datatype == "BYTES":
            texts = [draw.of((b"", b"a", "é".encode(), b"abc")) for _ in range(count)]
            if typed:
                tensor.contents.bytes_contents.extend(texts)
            else:
                request.raw_input_contents.append(b"".join([len(text).to_bytes(4, "little") + text for text in texts]))
        elif typed:
            field = {"UINT8": "uint", "BOOL": "bool", "FP32": "fp32", "INT16": "int", "INT64": "int64"}[spec.datatype]
            getattr(tensor.contents, f"{field}_contents").extend([n % 2 for n in range(count)])
        else:
            size = ELEMENT_BYTES[spec.datatype]
            request.raw_input_contents.append(b"".join((n % 100).to_bytes(size, "little") for n in range(count)))
    if name == "sum" and draw.below(3):
        request.parameters["sequence_id"].int64_param = draw.of((1, 2, 3))
        request.parameters["sequence_start"].bool_param = draw.below(3) == 0
        request.parameters["sequence_end"].bool_param = draw.below(4) == 0
    return request


# ---- what may be wrong ----


def _put(parameter: ks.InferParameter, draw: Draw) -> None:
    kind = draw.below(7)
    if kind == 0:
        parameter.int64_param = draw.of(NUMBERS)
    elif kind == 1:
        parameter.string_param = draw.of(TEXTS)
    elif kind == 2:
        parameter.bool_param = bool(draw.below(2))
    elif kind == 3:
        parameter.uint64_param = draw.of(NUMBERS) & ((1 << 64) - 1)
    elif kind == 4:
        parameter.double_param = draw.of((0.0, 1.5, float("nan"), float("inf")))
    elif kind == 5:
        parameter.Clear()
    else:
        parameter.int64_param = draw.below(256)


def _a_parameter(request: ks.ModelInferRequest, draw: Draw) -> None:
    _put(request.parameters[draw.of(PARAMETERS)], draw)


def _many_parameters(request: ks.ModelInferRequest, draw: Draw) -> None:
    for number in range(draw.of((2, 64, 65, 300))):
        request.parameters[f"p{number}"].bool_param = True


def _names(request: ks.ModelInferRequest, draw: Draw) -> None:
    field = draw.of(("model_name", "model_version", "id"))
    setattr(request, field, draw.of(("", "plain", "rows", "sum", "text", "2", "nothing", "é", "x" * 1025, "y" * 3000)))


def _input(request: ks.ModelInferRequest, draw: Draw) -> ks.ModelInferRequest.InferInputTensor:
    return draw.of(request.inputs) if request.inputs else request.inputs.add()


def _a_shape(request: ks.ModelInferRequest, draw: Draw) -> None:
    shape = _input(request, draw).shape
    act = draw.below(4)
    if act == 0 or not shape:
        shape.append(draw.of(EXTENTS))
    elif act == 1:
        shape[draw.below(len(shape))] = draw.of(EXTENTS)
    elif act == 2:
        del shape[draw.below(len(shape))]
    else:
        shape.extend([draw.of(EXTENTS)] * draw.of((1, 20, 300)))


def _an_input(request: ks.ModelInferRequest, draw: Draw) -> None:
    act = draw.below(6)
    if act == 0:
        del request.inputs[draw.below(len(request.inputs) or 1) :]
    elif act == 1:
        request.inputs.add().CopyFrom(_input(request, draw))
    elif act == 2:
        _input(request, draw).name = draw.of(("", "x", "open", "mask", "nothing", "n" * 2000))
    elif act == 3:
        _input(request, draw).datatype = draw.of(DATATYPES)
    elif act == 4:
        _put(_input(request, draw).parameters[draw.of(OF_TENSORS)], draw)
    else:
        for _ in range(draw.of((2, 40))):
            request.inputs.add(name="x", datatype="FP32", shape=[2])


def _raw(request: ks.ModelInferRequest, draw: Draw) -> None:
    raw = request.raw_input_contents
    act = draw.below(5)
    if act == 0 or not raw:
        raw.append(draw.bytes(draw.below(20)))
    elif act == 1:
        del raw[-1]
    elif act == 2:
        raw[0] = raw[0][: draw.below(len(raw[0]) + 1)]
    elif act == 3:
        raw[-1] += draw.bytes(draw.below(20))
    else:
        raw[draw.below(len(raw))] = b""


def _contents(request: ks.ModelInferRequest, draw: Draw) -> None:
    contents = _input(request, draw).contents
    field = draw.of(LISTS)
    numbers = [draw.of(NUMBERS) for _ in range(draw.of((0, 1, 2, 6)))]
    values: list[object] = list(numbers)
    if field == "bool_contents":
        values = [bool(number) for number in numbers]
    elif field == "bytes_contents":
        values = [bytes(abs(number) % 9) for number in numbers]
    elif field in ("int_contents", "uint_contents"):
        values = [number % (1 << 31) for number in numbers]
    elif field == "uint64_contents":
        values = [number % (1 << 64) for number in numbers]
    getattr(contents, field).extend(values)
    if draw.below(2):
        del request.raw_input_contents[:]


def _outputs(request: ks.ModelInferRequest, draw: Draw) -> None:
    output = request.outputs.add(name=draw.of(("y", "z", "y", "nothing", "", "o" * 2000)))
    for _ in range(draw.below(3)):
        _put(output.parameters[draw.of(OF_TENSORS)], draw)


_MUTATIONS: tuple[Callable[[ks.ModelInferRequest, Draw], None], ...] = (
    _a_parameter,
    _names,
    _a_shape,
    _an_input,
    _raw,
    _contents,
    _outputs,
    _a_parameter,
    _many_parameters,
)


def _bytes_mutated(message: bytes, draw: Draw) -> bytes:
    for _ in range(draw.of((0, 0, 0, 0, 0, 0, 1, 2))):
        at = (draw.below(256) << 8 | draw.below(256)) % (len(message) + 1)
        act = draw.below(4)
        if act == 0:
            message = message[:at]
        elif act == 1:
            message = message[:at] + draw.bytes(1) + message[at + 1 :]
        elif act == 2:
            message = message[:at] + draw.bytes(draw.below(4)) + message[at:]
        else:
            message = message[:at] + message[at : at + draw.below(16)] + message[at:]
    return message


def drawn(draw: Draw, *, whole: bool = False) -> bytes:
    """Returns the bytes of a request with anything from nothing to all wrong with it. `whole`: it is a request."""
    request = valid(draw)
    for _ in range(draw.of((0, 0, 1, 1, 1, 2, 3, 6))):
        draw.of(_MUTATIONS)(request, draw)
    message: bytes = request.SerializeToString()
    return message if whole else _bytes_mutated(message, draw)
