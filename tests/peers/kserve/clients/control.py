"""tritonclient.grpc: models are listed, loaded and unloaded, where the client may."""

import time

import checking
import numpy as np
import tritonclient.grpc as triton
from checking import PATIENCE_S, Server, only
from refusals import refused
from tensors import a_and_b, is_added, tensor

OFF = "UNAVAILABLE|UNIMPLEMENTED|FAILED_PRECONDITION|PERMISSION_DENIED"
"""Triton says the first."""


def check_index(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        said = {each.name: each for each in client.get_model_repository_index().models}
        assert set(said) >= {"add_sub", "types", "text", "accumulate"}
        assert (said["add_sub"].version, said["add_sub"].state) == ("1", "READY")


def check_unload_and_load(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        scalars = [tensor("x", np.float32([[1]]), "FP32")]
        client.unload_model("scalar")
        given_up_s = time.monotonic() + PATIENCE_S
        while (state := state_of(client, "scalar")) == "UNLOADING":  # Triton answers before it is done
            assert time.monotonic() < given_up_s
        assert state == "UNAVAILABLE", state
        assert not client.is_model_ready("scalar")
        refused("NOT_FOUND", ("scalar",), client.get_model_metadata, "scalar")
        refused("NOT_FOUND", ("scalar",), client.infer, "scalar", scalars)
        is_added(client.infer("add_sub", a_and_b()))
        for _ in range(2):
            client.load_model("scalar")
            assert client.is_model_ready("scalar")
        assert client.infer("scalar", scalars).as_numpy("y")[0, 0] == 2


def state_of(client: triton.InferenceServerClient, model: str) -> str:
    return {each.name: each.state for each in client.get_model_repository_index().models}[model]


def check_what_is_not_there(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        refused("INTERNAL|NOT_FOUND", ("nobody",), client.load_model, "nobody")
        client.unload_model("nobody")
        is_added(client.infer("add_sub", a_and_b()))


def check_names_that_lead_elsewhere(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        for name in ("../etc", "a/../b", "../../etc/passwd", "..", "/etc/passwd", "add_sub/1", " ..", "", " ", "\t"):
            refused("INTERNAL|NOT_FOUND|INVALID_ARGUMENT", (), client.load_model, name)
        is_added(client.infer("add_sub", a_and_b()))


@only("duly", "Triton 2.51 takes it unless it is told not to, newer ones do as duly does")
def check_shared_memory_is_off_by_default(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        taking = client.register_system_shared_memory
        text = refused(OFF, (), taking, "region", "/region", 64)
        assert "shared" in text, text
        assert not client.get_system_shared_memory_status().regions


@only("triton", "models of duly are what is in their folders")
def check_a_config_in_the_request(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        refused("INTERNAL", ("text",), client.load_model, "text", config="no JSON")


@only("duly", "Triton takes both")
def check_neither_config_nor_files_in_the_request(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        for more in ({"config": "{}"}, {"config": "{}", "files": {"file:1/model.onnx": b"graph"}}):
            text = refused("INVALID_ARGUMENT|UNIMPLEMENTED|PERMISSION_DENIED", (), client.load_model, "text", **more)
            assert "config" in text or "file" in text, text
        assert client.is_model_ready("text")


if __name__ == "__main__":
    checking.run(globals())
