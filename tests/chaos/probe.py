"""A CRITICAL stream as its client sees it, in a process of its own: `python -m tests.chaos.probe --address A ...`.

It prints `open` when the stream is open, sends until its standard input ends, and then prints a line of JSON: when each
frame was to be sent, when its outcome was read (monotonic clock, 0: never), and its status.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys

import grpc

from tests.chaos.account import AccountedStream


async def _probe(asked: argparse.Namespace) -> None:
    async with grpc.aio.insecure_channel(asked.address) as channel:
        stream = AccountedStream(
            channel,
            asked.model,
            period_s=asked.period_ms / 1e3,
            budget_s=asked.budget_ms / 1e3,
            stream_class=asked.stream_class,
            promise=True,
        )
        await stream.open()
        sys.stdout.write("open\n")
        sys.stdout.flush()
        running = asyncio.create_task(stream.run())
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        await asyncio.wait([running, ended], return_when=asyncio.FIRST_COMPLETED)
        stream.stop()
        account = await running
    lines = []
    for frame_id, due_s in account.sent.items():
        answer = account.answers.get(frame_id)
        lines.append((due_s, answer.came_s if answer else 0.0, answer.status if answer else 0))
    json.dump({"frames": lines, "broken": account.broken, "wrong": account.wrong[:5]}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # standard input may still be waited for


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--model", default="double")
    parser.add_argument("--period-ms", type=float, default=20)
    parser.add_argument("--budget-ms", type=float, default=50)
    parser.add_argument("--stream-class", default="CRITICAL")
    with contextlib.suppress(PermissionError):
        os.nice(-10)  # it stands for a client on another machine
    asyncio.run(_probe(parser.parse_args()))
