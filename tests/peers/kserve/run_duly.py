"""duly as a process of its own, on whatever port is free: prints its address when it serves, ends with its input.

    python -m tests.peers.kserve.run_duly SETTINGS

SETTINGS is JSON, of `ServerConfig`.
"""

import asyncio
import json
import sys

from duly.app import App
from duly.config import ServerConfig


async def serve(settings: dict[str, object]) -> None:
    app = App(ServerConfig(**({"listen": "127.0.0.1:0"} | settings)))  # type: ignore[arg-type]
    try:
        await app.start()
        print(app.address, file=sys.__stdout__, flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await app.close()


if __name__ == "__main__":
    sys.stdout = sys.stderr  # where what it logs goes
    asyncio.run(serve(json.loads(sys.argv[1])))
