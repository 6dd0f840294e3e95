"""KServe's own Python client, `InferenceGRPCClient`."""

import asyncio
import uuid

import checking
import grpc
import numpy as np
from checking import Server, only
from kserve import InferenceGRPCClient, InferInput, InferRequest

SIXTEEN = np.arange(16, dtype=np.int32)


def a_and_b(raw: bool) -> InferRequest:
    """A request to `add_sub`: its data raw, or in typed fields."""
    inputs = []
    for name, array in (("a", SIXTEEN), ("b", np.ones_like(SIXTEEN))):
        if raw:
            made = InferInput(name, [1, 16], "INT32")
            made.set_data_from_numpy(array.reshape(1, 16), binary_data=True)
        else:
            made = InferInput(name, [1, 16], "INT32", array.tolist())
        inputs.append(made)
    return InferRequest("add_sub", inputs, request_id=str(uuid.uuid4()))


def check_health(server: Server) -> None:
    async def ask() -> None:
        async with InferenceGRPCClient(server.address) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("add_sub")
            assert not await client.is_model_ready("nobody")

    asyncio.run(ask())


def check_infer(server: Server) -> None:
    async def ask() -> None:
        async with InferenceGRPCClient(server.address) as client:
            for raw in (True, False):
                request = a_and_b(raw)
                response = await client.infer(request)
                assert response.id == request.id
                assert response.model_name == "add_sub"
                assert [each.name for each in response.outputs] == ["sum", "difference"]
                assert np.array_equal(response.outputs[0].as_numpy(), [SIXTEEN + 1])
                assert np.array_equal(response.outputs[1].as_numpy(), [SIXTEEN - 1])

    asyncio.run(ask())


def check_an_error(server: Server) -> None:
    async def ask() -> None:
        async with InferenceGRPCClient(server.address) as client:
            request = a_and_b(raw=True)
            request.model_name = "nobody"
            (error,) = await asyncio.gather(client.infer(request), return_exceptions=True)
            assert isinstance(error, grpc.RpcError), error
            assert error.code() is grpc.StatusCode.NOT_FOUND, error
            assert "nobody" in error.details()

    asyncio.run(ask())


@only("duly", "Triton's replies have no times")
def check_times_are_parameters(server: Server) -> None:
    async def ask() -> None:
        async with InferenceGRPCClient(server.address) as client:
            response = await client.infer(a_and_b(raw=True))
            assert response.parameters["duly_run_us"].int64_param >= 0

    asyncio.run(ask())


if __name__ == "__main__":
    checking.run(globals())
