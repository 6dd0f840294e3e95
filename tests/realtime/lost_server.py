"""A server whose event loop is lost in something until its urgency is taken back. It prints what was then.

python -m tests.realtime.lost_server MODELS
"""

import asyncio
import json
import os
import sys
from pathlib import Path

import grpc

from duly.realtime import scheduling
from tests.e2e.serving import serving
from tests.e2e.wire import Wire, frame


def urgent(pid: int) -> int:
    """How many threads of the process run under SCHED_FIFO."""
    policies = [os.sched_getscheduler(thread) for thread in scheduling.threads(pid)]
    return sum(policy & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO for policy in policies)


async def main(models: Path) -> None:
    async with serving(models, realtime=True) as app, grpc.aio.insecure_channel(app.address) as channel:
        (worker,) = app.catalogue.find("double").workers.values()
        async with Wire(channel, model="double") as wire:
            await wire.ask(frame(1))
            before = urgent(os.getpid()), urgent(worker.pid)
            while urgent(os.getpid()):
                continue
            realtime = app.resources.realtime
            assert realtime is not None
            while realtime.urgent:  # noqa: ASYNC110 (nothing says so)
                await asyncio.sleep(0.01)
            after = urgent(os.getpid()), urgent(worker.pid)
            outcome = await wire.ask(frame(2))
            found = {"before": before, "after": after, "fallbacks": realtime.fallbacks, "status": outcome.status}
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
