"""tritonclient.grpc over TLS, with the certificates that `duly certs dev` makes."""

import asyncio

import checking
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from checking import Server
from refusals import refused
from tensors import a_and_b, is_added


def check_the_server_is_known_by_its_ca(server: Server) -> None:
    ca = str(server.folder / "certs" / "ca.pem")
    with triton.InferenceServerClient(server.address, ssl=True, root_certificates=ca) as client:
        assert client.is_server_ready()
        is_added(client.infer("add_sub", a_and_b()))


def check_a_stream(server: Server) -> None:
    ca = str(server.folder / "certs" / "ca.pem")

    async def requests() -> object:
        yield {"model_name": "add_sub", "inputs": a_and_b()}

    async def ask() -> None:
        async with triton_aio.InferenceServerClient(server.address, ssl=True, root_certificates=ca) as client:
            async for result, error in client.stream_infer(requests()):
                assert error is None, error
                is_added(result)

    asyncio.run(ask())


def check_nobody_gets_in_without_it(server: Server) -> None:
    for options in ({}, {"ssl": True}):
        with triton.InferenceServerClient(server.address, **options) as client:
            refused("UNAVAILABLE", (), client.infer, "add_sub", a_and_b())


if __name__ == "__main__":
    checking.run(globals())
