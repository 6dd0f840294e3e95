"""tritonclient.grpc.aio."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import checking
import tritonclient.grpc.aio as triton
from checking import PATIENCE_S, Server
from tensors import a_and_b, is_added, slow_one, step, total
from tritonclient.utils import InferenceServerException


def check_all_that_is_asked(server: Server) -> None:
    async def ask() -> None:
        async with triton.InferenceServerClient(server.address) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("add_sub")
            assert not await client.is_model_ready("nobody")
            assert (await client.get_server_metadata()).extensions
            assert (await client.get_model_metadata("add_sub")).name == "add_sub"
            assert (await client.get_model_config("add_sub", as_json=True))["config"]["max_batch_size"] == 8
            assert (await client.get_inference_statistics("add_sub")).model_stats[0].version == "1"
            assert {each.name for each in (await client.get_model_repository_index()).models} >= {"add_sub", "text"}
            assert "trace_level" in (await client.get_trace_settings()).settings
            assert "log_info" in (await client.get_log_settings()).settings
            assert not (await client.get_cuda_shared_memory_status()).regions

    asyncio.run(ask())


def check_many_at_once(server: Server) -> None:
    async def ask() -> None:
        async with triton.InferenceServerClient(server.address) as client:
            asked = (client.infer("add_sub", a_and_b(), request_id=str(place)) for place in range(30))
            for place, result in enumerate(await asyncio.gather(*asked)):
                is_added(result)
                assert result.get_response().id == str(place)

    asyncio.run(ask())


def check_stream(server: Server) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for place in range(5):
            yield {
                "model_name": "accumulate",
                "inputs": step(2),
                "request_id": str(place),
                "sequence_id": 31,
                "sequence_start": place == 0,
                "sequence_end": place == 4,
            }

    async def ask() -> None:
        async with triton.InferenceServerClient(server.address) as client:
            came = []
            async for result, error in client.stream_infer(requests()):
                assert error is None, error
                came.append(total(result))
            assert came == [2, 4, 6, 8, 10]

    asyncio.run(ask())


def check_a_stream_goes_on_after_an_error(server: Server) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "nobody", "inputs": a_and_b()}
        yield {"model_name": "add_sub", "inputs": a_and_b()}

    async def ask() -> None:
        async with triton.InferenceServerClient(server.address) as client:
            first, second = [each async for each in client.stream_infer(requests())]
            assert "nobody" in first[1].message()
            is_added(second[0])

    asyncio.run(ask())


def check_cancel(server: Server) -> None:
    async def ask() -> None:
        async with triton.InferenceServerClient(server.address) as client:
            task = asyncio.ensure_future(client.infer("slow", slow_one()))
            await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            else:
                raise AssertionError("it was answered")

            async def one() -> AsyncIterator[dict[str, Any]]:
                yield {"model_name": "slow", "inputs": slow_one()}
                await asyncio.Event().wait()

            answers = client.stream_infer(one())
            assert answers.cancel()
            is_added(await client.infer("add_sub", a_and_b()))

    asyncio.run(asyncio.wait_for(ask(), PATIENCE_S))


def check_timeout_and_compression(server: Server) -> None:
    async def ask() -> None:
        async with triton.InferenceServerClient(server.address) as client:
            late = client.infer("slow", slow_one(), client_timeout=0.01)
            (error,) = await asyncio.gather(late, return_exceptions=True)
            assert isinstance(error, InferenceServerException)
            assert error.status() == "StatusCode.DEADLINE_EXCEEDED", error
            for algorithm in ("gzip", "deflate"):
                is_added(await client.infer("add_sub", a_and_b(4), compression_algorithm=algorithm), 4)

    asyncio.run(ask())


if __name__ == "__main__":
    checking.run(globals())
