"""tritonclient.grpc while its server stops: prints `sent` when requests are under way, then what became of each.

python leaving.py HOST:PORT unary|streaming
"""

import queue
import sys
from typing import Any

import tritonclient.grpc as triton
from checking import PATIENCE_S
from tensors import slow_one

COUNT = 3


def main(address: str, way: str) -> None:
    came: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = triton.InferenceServerClient(address)
    if way == "streaming":
        client.start_stream(lambda result, error: came.put((result, error)))
    for _ in range(COUNT):
        if way == "streaming":
            client.async_stream_infer("slow", slow_one())
        else:
            client.async_infer("slow", slow_one(), lambda result, error: came.put((result, error)))
    first, error = came.get(timeout=PATIENCE_S)
    assert first is not None, error
    print("sent", flush=True)
    for _ in range(COUNT - 1):
        result, error = came.get(timeout=PATIENCE_S)
        print("answered" if result is not None else f"refused {error.message()}", flush=True)
        if error is not None and error.status() and way == "streaming":
            break  # it ends the stream


if __name__ == "__main__":
    main(*sys.argv[1:])
