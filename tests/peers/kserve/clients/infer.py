"""tritonclient.grpc, blocking: what a server says about itself, and one request at a time."""

import base64

import checking
import numpy as np
import tritonclient.grpc as triton
from checking import PATIENCE_S, Server, only
from ml_dtypes import bfloat16
from refusals import refused
from tensors import a_and_b, is_added, slow_one, tensor, words
from tritonclient.utils import triton_to_np_dtype


def check_health(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("add_sub")
        assert client.is_model_ready("add_sub", "1")
        assert not client.is_model_ready("add_sub", "9")
        assert not client.is_model_ready("nobody")


def check_server_metadata(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        said = client.get_server_metadata()
        assert said.name
        assert said.version
        wanted = {"classification", "sequence", "model_repository", "schedule_policy", "model_configuration"}
        wanted |= {"binary_tensor_data", "parameters", "statistics"}
        assert wanted <= set(said.extensions), said.extensions


def check_model_metadata_has_the_batch_dimension(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        said = client.get_model_metadata("add_sub", as_json=True)
        assert said["name"] == "add_sub"
        assert said["versions"] == ["1"]
        assert said["platform"]
        a, b = said["inputs"]
        assert (a["name"], a["datatype"], a["shape"]) == ("a", "INT32", ["-1", "16"])
        assert b["name"] == "b"
        assert [each["name"] for each in said["outputs"]] == ["sum", "difference"]
        unbatched = client.get_model_metadata("unbatched")
        assert list(unbatched.inputs[0].shape) == [2, 2]
        text = client.get_model_metadata("text")
        assert (text.inputs[0].datatype, list(text.inputs[0].shape)) == ("BYTES", [-1, -1])
        scalar = client.get_model_metadata("scalar")
        assert list(scalar.inputs[0].shape) == [-1, 1]


def check_model_config(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        config = client.get_model_config("add_sub").config
        assert config.name == "add_sub"
        assert config.max_batch_size == 8
        assert [(each.name, list(each.dims)) for each in config.input] == [("a", [16]), ("b", [16])]
        assert [each.name for each in config.output] == ["sum", "difference"]
        assert config.HasField("dynamic_batching")
        assert not config.model_transaction_policy.decoupled
        accumulate = client.get_model_config("accumulate").config
        assert accumulate.HasField("sequence_batching")
        assert [each.name for each in accumulate.input] == ["x"], "its state is not its clients'"
        assert client.get_model_config("unbatched").config.max_batch_size == 0
        assert client.get_model_config("labelled").config.output[0].label_filename == "labels.txt"


def check_who_is_not_there(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        for ask in (client.get_model_metadata, client.get_model_config):
            refused("NOT_FOUND", ("nobody",), ask, "nobody")
            refused("NOT_FOUND", ("add_sub", "9"), ask, "add_sub", "9")
            refused("INVALID_ARGUMENT", ("newest",), ask, "add_sub", "newest")
        refused("NOT_FOUND", ("nobody",), client.infer, "nobody", a_and_b())
        refused("NOT_FOUND", ("add_sub", "9"), client.infer, "add_sub", a_and_b(), "9")
        refused("INVALID_ARGUMENT", ("newest",), client.infer, "add_sub", a_and_b(), "newest")
        refused("INVALID_ARGUMENT|NOT_FOUND", ("nobody",), client.get_inference_statistics, "nobody")


def check_statistics_rise(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        before = client.get_inference_statistics("add_sub").model_stats[0]
        for _ in range(3):
            client.infer("add_sub", a_and_b())
        client.infer("add_sub", a_and_b(4))
        after = client.get_inference_statistics("add_sub").model_stats[0]
        assert after.name == "add_sub"
        assert after.version == "1"
        assert after.inference_count - before.inference_count == 7
        assert 1 <= after.execution_count - before.execution_count <= 7
        assert after.last_inference > 0
        for each in ("success", "queue", "compute_infer"):
            now, then = getattr(after.inference_stats, each), getattr(before.inference_stats, each)
            assert now.count > then.count, each
            assert now.ns >= then.ns, each
        assert {each.batch_size for each in after.batch_stats} <= set(range(1, 9))
        assert len(client.get_inference_statistics().model_stats) >= 9, "without a name it is all models"


def check_infer_answers_with_the_id(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        result = client.infer("add_sub", a_and_b(), request_id="first")
        is_added(result)
        said = result.get_response()
        assert (said.id, said.model_name, said.model_version) == ("first", "add_sub", "1")
        assert [each.name for each in said.outputs] == ["sum", "difference"]
        assert len(said.raw_output_contents) == 2
        assert client.infer("add_sub", a_and_b()).get_response().id == ""


def check_batches_are_one_answer(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        for rows in (1, 2, 3, 8):
            is_added(client.infer("add_sub", a_and_b(rows)), rows)
        refused("INVALID_ARGUMENT", ("8",), client.infer, "add_sub", a_and_b(9))


def check_outputs_as_asked_for(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        asked = [triton.InferRequestedOutput("difference")]
        said = client.infer("add_sub", a_and_b(), outputs=asked).get_response()
        assert [each.name for each in said.outputs] == ["difference"]
        assert len(said.raw_output_contents) == 1
        unknown = [triton.InferRequestedOutput("nothing")]
        refused("INVALID_ARGUMENT", ("nothing",), client.infer, "add_sub", a_and_b(), outputs=unknown)


def check_objects_are_used_again(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        inputs, outputs = a_and_b(), [triton.InferRequestedOutput("sum")]
        for place in range(5):
            inputs[0].set_data_from_numpy(np.full((1, 16), place, np.int32))
            said = client.infer("add_sub", inputs, outputs=outputs, request_id=str(place))
            assert np.array_equal(said.as_numpy("sum"), np.full((1, 16), place + 1))


def check_every_type_comes_back(server: Server) -> None:
    arrays = {"BOOL": np.array([[True, False], [False, True]])}
    for kind in ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"):
        limits = np.iinfo(triton_to_np_dtype(kind))
        arrays[kind] = np.array([[limits.min, limits.max], [1, 0]], triton_to_np_dtype(kind))
    for kind in ("FP32", "FP64"):
        limit = np.finfo(triton_to_np_dtype(kind)).max
        arrays[kind] = np.array([[limit, -limit], [-0.0, 0.1]], triton_to_np_dtype(kind))
    arrays["STRING"] = np.array([[b"one", b""], [b"drei", "四".encode()]], np.object_)
    with triton.InferenceServerClient(server.address) as client:
        inputs = [
            tensor(f"in_{kind.lower()}", array, "BYTES" if kind == "STRING" else kind) for kind, array in arrays.items()
        ]
        result = client.infer("types", inputs)
        for kind, array in arrays.items():
            came = result.as_numpy(f"out_{kind.lower()}")
            assert came.dtype == array.dtype, kind
            assert np.array_equal(came, array), kind


def check_half_precision_comes_back(server: Server) -> None:
    fp16 = np.array([[1.5, -65504.0]], np.float16)
    bf16 = np.array([[1.5, -3.0e38]], bfloat16)
    with triton.InferenceServerClient(server.address) as client:
        result = client.infer("halves", [tensor("in_fp16", fp16, "FP16"), tensor("in_bf16", bf16, "BF16")])
        assert np.array_equal(result.as_numpy("out_fp16"), fp16)
        assert np.array_equal(result.as_numpy("out_bf16").astype(bfloat16), bf16)


def check_strings_of_any_length(server: Server) -> None:
    for texts in (("a",), ("", "", ""), ("x" * 70_000, "é", "\U0001f600", "with\0zero")):
        with triton.InferenceServerClient(server.address) as client:
            came = client.infer("text", words(*texts)).as_numpy("out_string")
            assert [each.decode() for each in came[0]] == list(texts)


def check_shapes_without_a_batch(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        x = np.float32([[1, 2], [3, 4]])
        assert np.array_equal(client.infer("unbatched", [tensor("x", x, "FP32")]).as_numpy("y"), 2 * x)
        rows = np.float32([[3], [4]])
        came = client.infer("scalar", [tensor("x", rows, "FP32")]).as_numpy("y")
        assert came.shape == (2, 1)
        assert np.array_equal(came, 2 * rows)


def check_classification(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        scores = [tensor("x", np.float32([[1, 4, 3, 2], [9, 8, 7, 6]]), "FP32")]
        for count, wide in ((1, 1), (3, 3), (9, 4)):
            asked = [triton.InferRequestedOutput("y", class_count=count)]
            came = client.infer("labelled", scores, outputs=asked).as_numpy("y")
            assert came.shape == (2, wide)
            value, place, label = came[0, 0].decode().split(":")
            assert (float(value), place, label) == (8.0, "1", "east")
            assert came[1, 0].decode().split(":")[1:] == ["0", "north"]
        asked = [triton.InferRequestedOutput("sum", class_count=1)]
        came = client.infer("add_sub", a_and_b(), outputs=asked).as_numpy("sum")
        assert came[0, 0].decode().split(":")[1:] == ["15"], "without labels there is none"


def check_parameters(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        is_added(client.infer("add_sub", a_and_b(), parameters={"mine": "x", "number": 3, "switch": True}))
        for priority in (0, 1, 2):
            is_added(client.infer("add_sub", a_and_b(), priority=priority))
        is_added(client.infer("add_sub", a_and_b(), timeout=5_000_000))
        is_added(client.infer("add_sub", a_and_b(), headers={"mine": "x"}))


def check_compression(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        for algorithm in ("gzip", "deflate", None):
            is_added(client.infer("add_sub", a_and_b(8), compression_algorithm=algorithm), 8)


def check_client_timeout(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        refused("DEADLINE_EXCEEDED", ("Deadline Exceeded",), client.infer, "slow", slow_one(), client_timeout=0.01)
        assert client.infer("slow", slow_one(), client_timeout=PATIENCE_S).as_numpy("y")[0, 0] == 1


def check_trace_and_log_settings(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        trace = client.get_trace_settings(as_json=True)["settings"]
        assert {"trace_level", "trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode"} <= set(trace)
        assert client.get_trace_settings(model_name="add_sub").settings["trace_level"].value == ["OFF"]
        refused("INVALID_ARGUMENT|NOT_FOUND", ("nobody",), client.get_trace_settings, model_name="nobody")
        log = client.get_log_settings(as_json=True)["settings"]
        names = {"log_info", "log_warning", "log_error", "log_verbose_level", "log_format", "log_file"}
        assert names <= set(log)


@only("triton", "duly's logging and tracing are its operators' alone")
def check_log_settings_change(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        assert client.update_log_settings({"log_verbose_level": 0}).settings["log_verbose_level"].uint32_param == 0
        refused("UNIMPLEMENTED", (), client.update_log_settings, {"log_file": "x"})


def check_cuda_shared_memory_is_not_there(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        client.unregister_cuda_shared_memory()  # as perf_analyzer does before and after each run with shared memory
        assert not client.get_cuda_shared_memory_status().regions
        wrong = ("region", base64.b64encode(b"handle"), 0, 64)
        refused("UNIMPLEMENTED|INVALID_ARGUMENT", (), client.register_cuda_shared_memory, *wrong)


@only("duly", "Triton's replies have no times")
def check_replies_have_their_times(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        said = client.infer("add_sub", a_and_b()).get_response().parameters
        for name in ("duly_slack_us", "duly_queue_us", "duly_run_us"):
            assert name in said, sorted(said)


if __name__ == "__main__":
    checking.run(globals())
