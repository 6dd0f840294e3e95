"""Load without perf_analyzer, by tritonclient.grpc.aio: so many requests are under way, each followed by the next.

    python closed_loop.py HOST:PORT MODEL CONCURRENCY SECONDS unary|streaming

prints one line of JSON: answers a second, and the median and 99th percentile of their latency in us. One process of
Python sends it all, so that fast servers are not told apart.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import triton_to_np_dtype

WARM_SHARE = 0.2
"""Of the time, at first, what is not counted."""


async def inputs_of(client: triton.InferenceServerClient, model: str) -> list[triton.InferInput]:
    """One row of random numbers for each input."""
    random = np.random.default_rng(0)
    made = []
    for each in (await client.get_model_metadata(model)).inputs:
        shape = [1, *each.shape[1:]]
        made.append(triton.InferInput(each.name, shape, each.datatype))
        made[-1].set_data_from_numpy(random.random(shape).astype(triton_to_np_dtype(each.datatype)))
    return made


async def calls(client: triton.InferenceServerClient, model: str, end_ns: int, times: list[tuple[int, int]]) -> None:
    inputs = await inputs_of(client, model)
    while (began_ns := time.monotonic_ns()) < end_ns:
        await client.infer(model, inputs)
        times.append((began_ns, time.monotonic_ns()))


async def stream(client: triton.InferenceServerClient, model: str, end_ns: int, times: list[tuple[int, int]]) -> None:
    inputs = await inputs_of(client, model)
    answered = asyncio.Event()
    answered.set()
    began_ns = 0

    async def requests() -> AsyncIterator[dict[str, Any]]:
        nonlocal began_ns
        while (began_ns := time.monotonic_ns()) < end_ns:
            answered.clear()
            yield {"model_name": model, "inputs": inputs}
            await answered.wait()

    async for _, error in client.stream_infer(requests()):
        if error is not None:
            raise error
        times.append((began_ns, time.monotonic_ns()))
        answered.set()


async def measure(address: str, model: str, concurrency: int, seconds: float, way: str) -> dict[str, float]:
    async with triton.InferenceServerClient(address) as client:
        times: list[tuple[int, int]] = []
        begin_ns = time.monotonic_ns()
        end_ns = begin_ns + int(seconds * 1e9)
        send = calls if way == "unary" else stream
        await asyncio.gather(*(send(client, model, end_ns, times) for _ in range(concurrency)))
    counted_ns = begin_ns + int(seconds * WARM_SHARE * 1e9)
    took_us = [(end - began) / 1e3 for began, end in times if counted_ns <= began and end <= end_ns]
    if not took_us:
        raise SystemExit(f"no request was answered within {seconds} s: longer runs are needed")
    rate = len(took_us) / ((end_ns - counted_ns) / 1e9)
    return {"per_s": rate, "p50_us": statistics.median(took_us), "p99_us": float(np.percentile(took_us, 99))}


if __name__ == "__main__":
    host, name, count, length, kind = sys.argv[1:]
    print(json.dumps(asyncio.run(measure(host, name, int(count), float(length), kind))))
