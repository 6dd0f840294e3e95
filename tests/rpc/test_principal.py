"""The principal of a stream is told from the address that it comes from."""

from contextvars import copy_context

import pytest

from duly.access.gate import Caller, Gate
from duly.access.listeners import Listener
from duly.rpc.principal import CALLER, lasts, principal_of
from duly.streams.rights import Right, Rights


@pytest.mark.parametrize(
    ("peer", "principal"),
    [
        ("ipv4:10.0.0.7:51234", "10.0.0.7"),
        ("ipv6:[::1]:51234", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:51234", "fe80::1%eth0"),
        ("unix:", "unix"),
        ("unix:/run/duly.sock", "unix"),
        ("", ""),
    ],
)
def test_the_principal_is_the_address_without_the_port(peer: str, principal: str) -> None:
    assert principal_of(peer) == principal


def test_rights_that_were_lost_while_a_stream_opened_end_it() -> None:
    caller = Caller(Gate(), Listener(True), "InferenceService/Stream", Right.INFER, "ipv4:10.0.0.7:51234")
    caller.rights = Rights("camera", models=("lane-*",))
    ends: list[str] = []
    context = copy_context()  # a call's own; what is set outside of one stays for the tests after this one
    context.run(CALLER.set, caller)
    context.run(lasts, lambda rights: rights.check_model("yolo"), lambda error: ends.append(error.reason))
    assert ends == ["NOT_PERMITTED"]
