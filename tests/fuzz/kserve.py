"""Targets for KServe's protocol: requests as bytes, and as drawn from bytes, so that fuzzers change fields as well."""

from functools import cache
from random import Random

import structlog

from tests.fuzz.pieces import MESSAGES_MAX, joined, parts, runner
from tests.rpc.kserve.calls import Served, answered_all
from tests.rpc.kserve.drawn_requests import MODELS, Draw, drawn, valid
from tests.rpc.kserve.read_requests import check, check_common

_SIGNATURES = tuple(MODELS.values())


def kserve_requests(data: bytes) -> None:
    """One request, read for a model, or one that is read by what it has in common with one before. The first byte says
    which, and whether the rest is a message or draws one.
    """
    if data and data[0] & 8:
        check_common(*([*parts(data[1:], 2), b"", b""])[:2], MODELS["sum"])
    elif data:
        message = drawn(Draw(data[1:])) if data[0] & 4 else data[1:]
        check(message, _SIGNATURES[data[0] >> 4 & 3])


@cache
def served() -> Served:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    return runner().run(_made())


async def _made() -> Served:
    made = Served()
    made.tasks_before = 1  # a run's own
    return made


def kserve_calls(data: bytes) -> None:
    """Requests of a stream and of unary calls, with all of the law. The first piece says what their client does; the
    first byte of each other one, whether the rest is a message or draws one.
    """
    actions, *pieces = parts(data, MESSAGES_MAX + 1) or [b""]
    messages = [
        drawn(Draw(piece[1:]), whole=piece[0] & 2 == 0) if piece[0] & 1 else piece[1:] for piece in pieces if piece
    ]
    runner().run(answered_all(served(), messages, actions))


def request_seeds() -> list[bytes]:
    chance = Random(4)
    plain = [bytes((nth << 4,)) + valid(Draw.seeded(nth)).SerializeToString() for nth in range(4)]
    alike = valid(Draw(b"\2\0\0\1")), valid(Draw(b"\2\0\1\1"))
    plain.append(b"\x08" + joined([request.SerializeToString() for request in alike]))
    return plain + [bytes((4 | nth << 4,)) + chance.randbytes(80) for nth in range(4)]


def call_seeds() -> list[bytes]:
    chance = Random(5)
    seeds = []
    for actions in (b"", bytes(8), chance.randbytes(8), chance.randbytes(16)):
        whole = [b"\0" + valid(Draw.seeded(chance.getrandbits(30))).SerializeToString() for _ in range(4)]
        seeds.append(joined([actions, *whole, *[b"\1" + chance.randbytes(60) for _ in range(4)]]))
    return seeds
