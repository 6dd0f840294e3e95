"""tritonclient.grpc: models are not loaded and unloaded by those who may not."""

import checking
import tritonclient.grpc as triton
from checking import Server
from refusals import refused
from tensors import a_and_b, is_added


def check_models_stay(server: Server) -> None:
    with triton.InferenceServerClient(server.address) as client:
        code = "UNAVAILABLE" if server.kind == "triton" else "PERMISSION_DENIED"
        refused(code, (), client.load_model, "add_sub")
        refused(code, (), client.unload_model, "add_sub")
        assert {each.name for each in client.get_model_repository_index().models} >= {"add_sub"}
        is_added(client.infer("add_sub", a_and_b()))


if __name__ == "__main__":
    checking.run(globals())
