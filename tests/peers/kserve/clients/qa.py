"""What Triton's own tests of its gRPC front end check and no other script here does: docs/kserve-qa.md has the list."""

import math
import queue
from typing import Any

import checking
import grpc
import numpy as np
import tritonclient.grpc as triton
from checking import PATIENCE_S, Server, only
from refusals import refused
from shared_memory import Region, regions, shared_inputs
from tensors import SIXTEEN, a_and_b, is_added, slow_one, step, tensor, total, words
from together import Stream
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub


def floats(*values: float) -> list[triton.InferInput]:
    """What `lengths` takes: a row of numbers."""
    return [tensor("in_fp32", np.array([values], np.float32), "FP32")]


def check_keepalive_and_channel_arguments(server: Server) -> None:
    alive = triton.KeepAliveOptions(keepalive_time_ms=2**31 - 1, keepalive_timeout_ms=20_000)
    with triton.InferenceServerClient(server.address, keepalive_options=alive) as client:
        is_added(client.infer("add_sub", a_and_b()))
    own = [("grpc.max_send_message_length", 1 << 20), ("grpc.lb_policy_name", "pick_first")]
    with triton.InferenceServerClient(server.address, channel_args=own) as client:
        is_added(client.infer("add_sub", a_and_b()))


def check_timeouts_of_all_that_is_no_inference(server: Server) -> None:
    limit: dict[str, Any] = {"client_timeout": PATIENCE_S}
    with triton.InferenceServerClient(server.address) as client:
        assert client.is_server_live(**limit)
        assert client.is_server_ready(**limit)
        assert client.is_model_ready("add_sub", **limit)
        assert client.get_server_metadata(**limit)
        assert client.get_model_metadata("add_sub", **limit)
        assert client.get_model_config("add_sub", **limit)
        assert client.get_model_repository_index(**limit)
        assert client.get_inference_statistics("add_sub", **limit)
        assert client.get_trace_settings(**limit)
        assert client.get_log_settings(**limit)
        client.get_system_shared_memory_status(**limit)
        client.unregister_system_shared_memory("nobody", **limit)
        client.get_cuda_shared_memory_status(**limit)
        client.unregister_cuda_shared_memory("nobody", **limit)


def check_a_batch_for_a_model_without(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        rows = [tensor("x", np.ones((2, 2, 2), np.float32), "FP32")]
        refused("INVALID_ARGUMENT", ("x",), client.infer, "unbatched", rows)


@only("triton", "duly refuses them, whichever way they come: a result of such an input is none")
def check_numbers_that_are_none(server: Server) -> None:
    values = (math.nan, math.inf, -math.inf, -0.0)
    with triton.InferenceServerClient(server.address) as client:
        came = client.infer("lengths", floats(*values)).as_numpy("out_fp32")
        assert came.tobytes() == np.array([values], np.float32).tobytes()


@only("duly", "Triton takes them")
def check_numbers_that_are_none_are_named(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        for value in (math.nan, math.inf, -math.inf):
            refused("INVALID_ARGUMENT", ("in_fp32",), client.infer, "lengths", floats(1.0, value))


def check_inputs_of_any_length(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        for count in (1, 7, 4096, 0):
            came = client.infer("lengths", floats(*range(count))).as_numpy("out_fp32")
            assert came.shape == (1, count)
            assert np.array_equal(came[0], np.arange(count))


def check_lengths_differ_in_one_stream(server: Server) -> None:
    with Stream(server) as stream:
        for count in range(1, 20):
            stream.send("lengths", floats(*range(count)), str(count))
        for _ in range(1, 20):
            result = stream.next()
            assert result.as_numpy("out_fp32").shape == (1, int(result.get_response().id))


def check_more_in_the_data_than_in_the_shape(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        for said, sent in ((16, 14), (16, 18)):
            for wrong, model in ((words(*["x"] * sent), "text"), (floats(*range(sent)), "lengths")):
                wrong[0].set_shape([1, said])
                refused("INVALID_ARGUMENT", (wrong[0].name(),), client.infer, model, wrong)


@only("duly", "Triton 2.51 dies of it, newer ones refuse it")
def check_classes_of_text(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        asked = [triton.InferRequestedOutput("out_string", class_count=2)]
        refused("INVALID_ARGUMENT", ("out_string",), client.infer, "text", words("a", "b", "c"), outputs=asked)


def check_many_strings_in_typed_contents(server: Server) -> None:
    count = 10_000
    request = messages.ModelInferRequest(model_name="text")
    made = request.inputs.add(name="in_string", datatype="BYTES", shape=[1, count])
    made.contents.bytes_contents.extend([b"A"] * count)
    said = GRPCInferenceServiceStub(grpc.insecure_channel(server.address)).ModelInfer(request, timeout=PATIENCE_S)
    assert list(said.outputs[0].shape) == [1, count]
    assert said.raw_output_contents[0] == b"\1\0\0\0A" * count


@only("duly", "Triton 2.51 answers it once, newer ones refuse it")
def check_an_output_asked_for_twice(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        twice = [triton.InferRequestedOutput("sum")] * 2
        refused("INVALID_ARGUMENT", ("sum",), client.infer, "add_sub", a_and_b(), outputs=twice)


def check_a_large_payload(server: Server) -> None:
    unbounded = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with triton.InferenceServerClient(server.address, channel_args=unbounded) as client:
        values = np.arange(2_000_000, dtype=np.float32).reshape(1, -1)
        came = client.infer("lengths", [tensor("in_fp32", values, "FP32")]).as_numpy("out_fp32")
        assert np.array_equal(came, values)


@only("duly", "Triton 2.51 reads from the region's beginning, newer ones from where it was said to begin")
def check_a_region_that_begins_later(server: Server) -> None:
    page = 4096
    with triton.InferenceServerClient(server.address) as client:
        region = Region(4 * page)
        try:
            client.register_system_shared_memory(region.name, region.key, page, offset=3 * page)
            region.write(SIXTEEN.reshape(1, 16), np.ones((1, 16), np.int32), offset=3 * page)
            inputs = [triton.InferInput(name, [1, 16], "INT32") for name in ("a", "b")]
            for place, each in enumerate(inputs):
                each.set_shared_memory(region.name, 64, 64 * place)
            is_added(client.infer("add_sub", inputs))
            assert client.get_system_shared_memory_status(region.name).regions[region.name].offset == 3 * page
            inputs[0].set_shared_memory(region.name, 64, page)
            refused("INVALID_ARGUMENT", (region.name,), client.infer, "add_sub", inputs)
        finally:
            client.unregister_system_shared_memory(region.name)
            region.destroy()


@only("duly", "Triton 2.51 refuses to give up a region in use, newer ones wait until it is free")
def check_a_region_is_given_up_while_it_is_in_use(server: Server) -> None:
    came: queue.Queue[tuple[triton.InferResult | None, Any]] = queue.Queue()
    with triton.InferenceServerClient(server.address) as client, regions(client, 256) as (region,):
        region.write(np.ones((1, 1, 1), np.float32))
        shared = triton.InferInput("x", [1, 1, 1], "FP32")
        shared.set_shared_memory(region.name, 4)
        for inputs in (slow_one(), [shared]):
            client.async_infer("slow", inputs, lambda result, error: came.put((result, error)))
        client.unregister_system_shared_memory(region.name)
        for _ in range(2):
            result, error = came.get(timeout=PATIENCE_S)
            # It may have come before the request did; it is answered in any case.
            assert error is None or region.name in error.message(), error
            assert error is not None or result.as_numpy("y")[0, 0] == 1
        inputs = shared_inputs(region)
        refused("NOT_FOUND", (region.name,), client.infer, "add_sub", inputs)


def check_names_that_lead_elsewhere(server: Server) -> None:
    names = (
        "../etc",
        "a/../b",
        "../../etc/passwd",
        "..",
        "/etc/passwd",
        "add_sub/1",
        "add_sub/",
        " ..",
        "",
        " ",
        "\t\n",
    )
    with triton.InferenceServerClient(server.address) as client:
        for name in names:
            assert not client.is_model_ready(name)
            refused("NOT_FOUND|INVALID_ARGUMENT", (), client.get_model_config, name)
            refused("NOT_FOUND|INVALID_ARGUMENT", (), client.infer, name, a_and_b())


def check_more_sequences_than_run_at_once(server: Server) -> None:
    with Stream(server) as stream:
        count, steps = 20, 4
        for place in range(steps):
            for nth in range(count):
                flags = {"sequence_start": place == 0, "sequence_end": place == steps - 1}
                stream.send("accumulate", step(nth), f"{nth} {place}", sequence_id=20_000 + nth, **flags)
        came = {result.get_response().id: total(result) for result in (stream.next() for _ in range(count * steps))}
        assert came == {f"{nth} {place}": nth * (place + 1) for nth in range(count) for place in range(steps)}


def check_a_state_is_no_output(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        asked = [triton.InferRequestedOutput("total_next")]
        flags = {"sequence_id": 30_001, "sequence_start": True, "sequence_end": True}
        refused("INVALID_ARGUMENT", ("total_next",), client.infer, "accumulate", step(1), outputs=asked, **flags)


def check_numbers_of_versions(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        assert client.get_model_metadata("add_sub", "1").versions == ["1"]
        is_added(client.infer("add_sub", a_and_b(), model_version="1"))
        assert client.get_inference_statistics("add_sub", "1").model_stats[0].version == "1"
        refused("INVALID_ARGUMENT|NOT_FOUND", ("add_sub",), client.get_inference_statistics, "add_sub", "9")


def check_an_index_of_one_repository(server: Server) -> None:
    stub = GRPCInferenceServiceStub(grpc.insecure_channel(server.address))
    ready = stub.RepositoryIndex(messages.RepositoryIndexRequest(ready=True), timeout=PATIENCE_S)
    assert {each.state for each in ready.models} == {"READY"}
    answer = stub.RepositoryIndex.future(messages.RepositoryIndexRequest(repository_name="other"), timeout=PATIENCE_S)
    assert answer.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT)


if __name__ == "__main__":
    checking.run(globals())
