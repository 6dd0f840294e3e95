"""Requests that are not so, by tritonclient's stubs: what each is answered, alone and in the middle of a stream."""

import struct
from collections.abc import Callable
from typing import Any

import checking
import grpc
import numpy as np
from checking import PATIENCE_S, Server, only
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import triton_to_np_dtype as of

Request = messages.ModelInferRequest
TAKEN_BY_DULY = {("timeout", "uint64_param"), ("sequence_id", "uint64_param")}
"""A number is a number there."""
Wrong = tuple[str, tuple[str, ...], Request]
"""The code that it is answered, words that are in the error, and the request."""


def good(rows: int = 1) -> Request:
    request = Request(model_name="add_sub", id="it")
    for name in ("a", "b"):
        request.inputs.add(name=name, datatype="INT32", shape=[rows, 16])
        request.raw_input_contents.append(np.ones(16 * rows, np.int32).tobytes())
    return request


def typed() -> Request:
    request = good()
    del request.raw_input_contents[:]
    for each in request.inputs:
        each.contents.int_contents.extend([1] * 16)
    return request


def text(raw: bytes | None, count: int = 2, typed: tuple[bytes, ...] = ()) -> Request:
    request = Request(model_name="text", id="it")
    made = request.inputs.add(name="in_string", datatype="BYTES", shape=[1, count])
    if raw is not None:
        request.raw_input_contents.append(raw)
    if typed:  # contents that are there and empty are contents
        made.contents.bytes_contents.extend(typed)
    return request


def strings(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in texts)


def changed(change: Callable[[Request], object], request: Request | None = None) -> Request:
    request = request or good()
    change(request)
    return request


def with_parameter(name: str, field: str, value: Any) -> Request:
    request = good()
    setattr(request.parameters[name], field, value)
    return request


def with_shape(*shape: int) -> Request:
    def change(request: Request) -> None:
        request.inputs[0].shape[:] = shape

    return changed(change)


def shared(**parameters: object) -> Request:
    """Input `a` in shared memory, said so."""

    def change(request: Request) -> None:
        request.raw_input_contents.pop(0)
        for name, value in parameters.items():
            field = "string_param" if isinstance(value, str) else "int64_param"
            setattr(request.inputs[0].parameters[f"shared_memory_{name}"], field, value)

    return changed(change)


def set_raw(place: int, raw: bytes) -> Callable[[Request], None]:
    def change(request: Request) -> None:
        request.raw_input_contents[place] = raw

    return change


def set_input(place: int, **fields: object) -> Callable[[Request], None]:
    def change(request: Request) -> None:
        for name, value in fields.items():
            setattr(request.inputs[place], name, value)

    return change


def wrong_requests(kind: str) -> dict[str, Wrong]:
    bad = "INVALID_ARGUMENT"
    found: dict[str, Wrong] = {
        "unknown model": ("NOT_FOUND", ("nobody",), changed(lambda r: setattr(r, "model_name", "nobody"))),
        "no model": ("NOT_FOUND", (), changed(lambda r: setattr(r, "model_name", ""))),
        "unknown version": ("NOT_FOUND", ("add_sub", "9"), changed(lambda r: setattr(r, "model_version", "9"))),
        "version of letters": (bad, ("new",), changed(lambda r: setattr(r, "model_version", "new"))),
        "raw missing": (bad, ("b",), changed(lambda r: r.raw_input_contents.pop())),
        "nothing": (bad, ("a", "b"), Request(model_name="add_sub", id="it")),
        "input missing": (bad, ("b",), changed(lambda r: (r.inputs.pop(), r.raw_input_contents.pop()))),
        "input twice": (bad, ("a",), changed(set_input(1, name="a"))),
        "input unknown": (bad, ("c",), changed(set_input(1, name="c"))),
        "a byte short": (bad, ("a", "64", "63"), changed(set_raw(0, bytes(63)))),
        "twice as long": (bad, ("a", "64", "128"), changed(set_raw(0, bytes(128)))),
        "empty": (bad, ("a", "64"), changed(set_raw(0, b""))),
        "other datatype": (bad, ("a", "INT32", "FP32"), changed(set_input(0, datatype="FP32"))),
        "no such datatype": (bad, ("a", "INT32"), changed(set_input(0, datatype="INT33"))),
        "no datatype": (bad, ("a", "INT32"), changed(set_input(0, datatype=""))),
        "no batch dimension": (bad, ("a",), with_shape(16)),
        "other width": (bad, ("a",), with_shape(1, 15)),
        "negative": (bad, ("a",), with_shape(1, -16)),
        "no rows": (bad, ("a",), with_shape(0, 16)),
        "no shape": (bad, ("a",), with_shape()),
        "beyond 64 bits": (bad, ("a",), with_shape(1 << 62, 1 << 62)),
        "rows differ": (bad, ("a",), with_shape(2, 16)),
        "too many rows": (bad, ("8",), good(9)),
        "output unknown": (bad, ("nothing",), changed(lambda r: r.outputs.add(name="nothing"))),
        "typed too few": (bad, ("a",), changed(lambda r: r.inputs[0].contents.int_contents.pop(), typed())),
        "typed and raw": (bad, ("a",), changed(lambda r: r.inputs[0].contents.int_contents.append(1))),
        "typed in another field": (
            bad,
            ("a",),
            changed(
                lambda r: (r.inputs[0].ClearField("contents"), r.inputs[0].contents.fp32_contents.extend([0] * 16)),
                typed(),
            ),
        ),
        "typed in two fields": (
            bad,
            ("a",),
            changed(lambda r: r.inputs[0].contents.int64_contents.append(1), typed()),
        ),
        "a string too few": (bad, ("in_string",), text(strings(b"a"))),
        "a string too many": (bad, ("in_string",), text(strings(b"a", b"b", b"c"))),
        "a lying length": (bad, ("in_string",), text(struct.pack("<I", 0xFFFFFFFF) + b"abc")),
        "a length cut short": (bad, ("in_string",), text(strings(b"a") + b"\1\0")),
        "no strings": (bad, ("in_string",), text(b"")),
        "typed string too few": (bad, ("in_string",), text(None, typed=(b"a",))),
        "shared without its size": (bad, ("a",), shared(region="r")),
        "size without shared": (bad, ("a",), shared(byte_size=64)),
        "shared by a number": (bad, ("a",), shared(region=1, byte_size=64)),
        "size in letters": (bad, ("a",), shared(region="r", byte_size="64")),
        "offset in letters": (bad, ("a",), shared(region="r", byte_size=64, offset="0")),
        "a key of Triton's": (bad, ("triton_",), with_parameter("triton_mine", "int64_param", 1)),
        "nothing in it": (bad, ("mine",), changed(lambda r: r.parameters["mine"].SetInParent())),
        "priority below nothing": (bad, ("priority",), with_parameter("priority", "int64_param", -1)),
        "classes below nothing": (
            bad,
            ("classification",),
            changed(lambda r: setattr(r.outputs.add(name="sum").parameters["classification"], "int64_param", 0)),
        ),
        "classes in letters": (
            bad,
            ("classification",),
            changed(lambda r: setattr(r.outputs.add(name="sum").parameters["classification"], "string_param", "1")),
        ),
    }
    values = {"string_param": "x", "bool_param": True, "double_param": 1.5, "uint64_param": 5, "int64_param": 1}
    for name, takes in (
        ("timeout", {"int64_param"}),
        ("priority", {"int64_param", "uint64_param"}),
        ("sequence_id", {"int64_param", "string_param"}),
        ("sequence_start", {"bool_param"}),
        ("sequence_end", {"bool_param"}),
        ("triton_enable_empty_final_response", {"bool_param"}),
    ):
        for field in sorted(set(values) - takes):
            if kind == "duly" and (name, field) in TAKEN_BY_DULY:
                continue
            found[f"{name} as {field}"] = (bad, (name,), with_parameter(name, field, values[field]))
    return found


def stub(server: Server) -> Any:
    return GRPCInferenceServiceStub(grpc.insecure_channel(server.address))


def check_each_is_named(server: Server) -> None:
    problems = []
    for what, (code, words, request) in wrong_requests(server.kind).items():
        try:
            stub(server).ModelInfer(request, timeout=PATIENCE_S)
            problems.append(f"{what}: it was taken")
        except grpc.RpcError as error:
            lacking = [word for word in words if word not in error.details()]
            if error.code().name != code or lacking:
                problems.append(f"{what}: {error.code().name}, not {code}; {error.details()!r} lacks {lacking}")
    assert not problems, "\n".join(problems)


def check_each_is_named_in_a_stream_that_goes_on(server: Server) -> None:
    wrong = wrong_requests(server.kind)
    requests = []
    for what, (_, _, request) in wrong.items():
        request.id = what
        requests += [request, good()]
    answers = list(stub(server).ModelStreamInfer(iter(requests), timeout=PATIENCE_S))
    assert len(answers) == len(requests)
    errors = {said.infer_response.id: said.error_message for said in answers if said.error_message}
    assert set(errors) == set(wrong), "answers for several models come in any order"
    problems = []
    for what, (_, words, _) in wrong.items():
        lacking = [word for word in words if word not in errors[what]]
        if lacking:
            problems.append(f"{what}: {errors[what]!r} lacks {lacking}")
    assert not problems, "\n".join(problems)


def check_what_is_odd_but_taken(server: Server) -> None:
    taken = {
        "typed": typed(),
        "no timeout": with_parameter("timeout", "int64_param", 0),
        "a negative timeout": with_parameter("timeout", "int64_param", -1),
        "a priority beyond all": with_parameter("priority", "int64_param", 9),
        "a priority of the other kind": with_parameter("priority", "uint64_param", 1),
        "a key of the caller's": with_parameter("mine", "double_param", 1.5),
        "a key in an input": changed(lambda r: setattr(r.inputs[0].parameters["mine"], "string_param", "x")),
        "a key in an output": changed(
            lambda r: setattr(r.outputs.add(name="sum").parameters["mine"], "string_param", "x")
        ),
    }
    for what, request in taken.items():
        try:
            said = stub(server).ModelInfer(request, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            raise AssertionError(f"{what}: {error.code().name} {error.details()}") from error
        assert said.id == "it"
        assert said.raw_output_contents[0] == np.full(16, 2, np.int32).tobytes(), what


@only("triton", "duly says that it is one too many")
def check_raw_data_of_no_input(server: Server) -> None:
    request = changed(lambda r: r.raw_input_contents.append(b"x"))
    assert stub(server).ModelInfer(request, timeout=PATIENCE_S).id == "it"


def check_inputs_in_any_order(server: Server) -> None:
    request = Request(model_name="add_sub")
    for name, value in (("b", 1), ("a", 5)):
        request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        request.raw_input_contents.append(np.full(16, value, np.int32).tobytes())
    said = stub(server).ModelInfer(request, timeout=PATIENCE_S)
    assert said.raw_output_contents[1] == np.full(16, 4, np.int32).tobytes()


def check_typed_contents_of_every_type(server: Server) -> None:
    request = Request(model_name="types")
    fields = {
        "bool_contents": (("BOOL",), [True, False]),
        "int_contents": (("INT8", "INT16", "INT32"), [-128, 127]),
        "int64_contents": (("INT64",), [-(1 << 63), (1 << 63) - 1]),
        "uint_contents": (("UINT8", "UINT16", "UINT32"), [0, 255]),
        "uint64_contents": (("UINT64",), [0, (1 << 64) - 1]),
        "fp32_contents": (("FP32",), [1.5, -2.5]),
        "fp64_contents": (("FP64",), [0.1, 1e300]),
        "bytes_contents": (("BYTES",), [b"eins", b""]),
    }
    wanted = {}
    for field, (kinds, values) in fields.items():
        for kind in kinds:
            name = "string" if kind == "BYTES" else kind.lower()
            made = request.inputs.add(name=f"in_{name}", datatype=kind, shape=[1, 2])
            getattr(made.contents, field).extend(values)
            wanted[f"out_{name}"] = strings(*values) if kind == "BYTES" else np.array(values, of(kind)).tobytes()
    said = stub(server).ModelInfer(request, timeout=PATIENCE_S)
    assert {each.name: raw for each, raw in zip(said.outputs, said.raw_output_contents, strict=True)} == wanted


def check_strings_of_no_count(server: Server) -> None:
    said = stub(server).ModelInfer(text(b"", count=0), timeout=PATIENCE_S)
    assert list(said.outputs[0].shape) == [1, 0]
    assert said.raw_output_contents[0] == b""


def check_ten_thousand_inputs_harm_nobody(server: Server) -> None:
    request = good()
    for place in range(10_000):
        request.inputs.add(name=f"z{place}", datatype="INT32", shape=[1, 1])
        request.raw_input_contents.append(bytes(4))
    answer = stub(server).ModelInfer.future(request, timeout=PATIENCE_S)
    # The words of Triton's error are longer than the 16 KB of metadata that a client takes.
    assert answer.code().name == ("RESOURCE_EXHAUSTED" if server.kind == "triton" else "INVALID_ARGUMENT")
    assert stub(server).ModelInfer(good(), timeout=PATIENCE_S).id == "it"


def check_an_empty_stream(server: Server) -> None:
    assert not list(stub(server).ModelStreamInfer(iter(()), timeout=PATIENCE_S))


if __name__ == "__main__":
    checking.run(globals())
