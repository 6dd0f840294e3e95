"""How a user names what is put under load.

duly://HOST:PORT, duly+unix:PATH, unix:PATH     duly, over its own protocol
    ?advice=follow                              sensors send no more than the server says that it can serve
kserve://HOST:PORT, kserve+unix:PATH            a server of the KServe v2 protocol (Triton, MLServer, KServe, ...)
    ?calls=streams                              a bidirectional call for each stream, as Triton has it (the default)
    ?calls=unary                                a call for each frame
    ?timeout=budget                             each request carries what is left of its budget, as Triton takes it
    ?terms=duly                                 each request carries what duly takes of a stream's terms beside it:
                                                capture time, budget, class, period and backlog policy; and asks for
                                                outcomes in place of errors
null:                                           nothing at all: answers each frame at once, to measure the harness
"""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl


class AddressError(ValueError):
    """Says what is wrong with it and what would be right."""


@dataclass(frozen=True, slots=True)
class Address:
    """What to connect to, and how."""

    protocol: Literal["duly", "kserve", "null"]
    endpoint: str
    """The endpoint as gRPC takes it: HOST:PORT or unix:PATH; empty for `null`."""
    unary: bool = False
    """With kserve: each frame has a call of its own."""
    timeout: bool = False
    """With kserve: requests carry what is left of their budget."""
    duly_terms: bool = False
    """With kserve: requests carry their stream's terms in duly's parameters."""
    follow_advice: bool = False
    """With duly: sensors send no more than they are advised to."""


SHAPES = "duly://HOST:PORT, unix:PATH, kserve://HOST:PORT or null:"


def parse_address(text: str) -> Address:
    """Raises AddressError."""
    head, _, query = text.partition("?")
    if head == "null:":
        address = Address("null", "")
    elif head.startswith("unix:"):
        address = Address("duly", _path(text, head.removeprefix("unix:")))
    elif head.startswith(("duly+unix:", "kserve+unix:")):
        protocol, _, path = head.partition("+unix:")
        address = Address("duly" if protocol == "duly" else "kserve", _path(text, path))
    elif head.startswith(("duly://", "kserve://")):
        protocol, _, endpoint = head.partition("://")
        address = Address("duly" if protocol == "duly" else "kserve", _host_and_port(text, endpoint))
    else:
        raise AddressError(f"{text!r}: should be {SHAPES}")
    if address.protocol == "duly" and query in ("", "advice=follow"):
        return Address("duly", address.endpoint, follow_advice=bool(query))
    if query and address.protocol != "kserve":
        raise AddressError(f"{text!r}: {address.protocol} takes no ?{query}; duly:// takes ?advice=follow")
    known = {"calls": ("streams", "unary"), "timeout": ("budget",), "terms": ("duly",)}
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if value not in known.get(name, ()):
            right = " or ".join(f"{key}={each}" for key, values in known.items() for each in values)
            raise AddressError(f"{text!r}: {name}={value} should be {right}")
    unary, timeout = options.get("calls") == "unary", options.get("timeout") == "budget"
    return Address(address.protocol, address.endpoint, unary, timeout, duly_terms=options.get("terms") == "duly")


def _path(text: str, path: str) -> str:
    if not path:
        raise AddressError(f"{text!r}: should name the socket, as in unix:/run/duly.sock")
    return f"unix:{path}"


def _host_and_port(text: str, endpoint: str) -> str:
    host, _, port = endpoint.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536 or "/" in endpoint:
        raise AddressError(f"{text!r}: should be HOST:PORT after ://, with a port from 1 to 65535")
    return endpoint
