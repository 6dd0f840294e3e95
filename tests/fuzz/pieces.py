"""What several targets share: inputs of several pieces, and the loop."""

import asyncio
import contextvars
from functools import cache

MESSAGES_MAX = 16


def parts(data: bytes, count_max: int) -> list[bytes]:
    """Cuts data into pieces, each led by its length in two bytes, the last one as long as there is."""
    found = []
    while data and len(found) < count_max:
        size = int.from_bytes(data[:2], "big")
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    return found


def joined(pieces: list[bytes]) -> bytes:
    return b"".join(len(piece).to_bytes(2, "big") + piece for piece in pieces)


@cache
def runner() -> asyncio.Runner:
    """The loop of all targets that need one. It knows of no caller, whoever a test before it has set as one."""
    made = asyncio.Runner()
    contextvars.Context().run(made.get_loop)
    return made
