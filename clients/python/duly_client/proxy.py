"""Which HTTP proxy gRPC asks for a server, and for which servers it is asked none.

gRPC takes the proxy from the environment, also for a server on this very machine, which no proxy can reach. Its rules,
which are those of grpc/src/core/handshaker/http_connect/http_proxy_mapper.cc: the first of grpc_proxy, https_proxy and
http_proxy that is set counts, an empty one means none, and only proxies that speak http are asked. Hosts in
no_grpc_proxy, else in no_proxy, are reached directly: each entry is the end of a name, or a network such as 10.0.0.0/8.
Names of variables in capitals are not read.
"""

import ipaddress
import os
from urllib.parse import SplitResult, urlsplit

_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_LOCAL_SCHEMES = ("local:", "unix:", "unix-abstract:", "vsock:")
_SCHEMES = ("dns:", "ipv4:", "ipv6:")


def channel_options(target: str) -> tuple[tuple[str, int], ...]:
    """Returns the options of a channel to `target`, as gRPC takes it, so that no proxy is asked for this machine."""
    return (("grpc.enable_http_proxy", 0),) if is_local(target) else ()


def through_proxy(target: str) -> str:
    """Returns words for an error on the way to `target` that name the proxy which was asked, without its password; ""
    where there is none.
    """
    variable = next((name for name in _VARIABLES if name in os.environ), "")
    address = _http_address(os.environ.get(variable, ""))
    host = _host(target)
    if address is None or is_local(target) or _is_excepted(host):
        return ""
    where = f"[{address.hostname}]" if ":" in (address.hostname or "") else address.hostname
    at = f"{where}:{address.port}" if address.port else where
    setting = "no_grpc_proxy" if "no_grpc_proxy" in os.environ else "no_proxy"
    return f", through the proxy http://{at} of the variable {variable}; to do without, set {setting}={host}"


def _http_address(text: str) -> SplitResult | None:
    try:
        address = urlsplit(text)
        return address if address.scheme == "http" and address.hostname and address.port != 0 else None
    except ValueError:
        return None


def _host(target: str) -> str:
    """Returns the host of a target, without its port and brackets."""
    for scheme in _SCHEMES:
        if target.startswith(scheme):
            target = target.removeprefix(scheme).rpartition("//")[2].rpartition("/")[2].partition(",")[0]
    if target.startswith("["):
        return target[1:].partition("]")[0]
    return target.partition(":")[0] if target.count(":") < 2 else target


def is_local(target: str) -> bool:
    """Whether a target is on this machine."""
    if target.startswith(_LOCAL_SCHEMES):
        return True
    host = _host(target).rstrip(".").lower()
    if host in ("localhost", "ip6-localhost", "ip6-loopback", "localhost.localdomain") or host.endswith(".localhost"):
        return True
    address = _address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    # To connect to 0.0.0.0 or :: is to connect to this machine.
    return mapped is not None and (mapped.is_loopback or mapped.is_unspecified)


def _is_excepted(host: str) -> bool:
    listed = os.environ.get("no_grpc_proxy", os.environ.get("no_proxy", ""))  # noqa: SIM112
    address = _address(host)
    return any(
        host.lower().endswith(entry.lower()) or (address is not None and address in _network(entry))
        for entry in map(str.strip, listed.split(","))
        if entry
    )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | tuple[()]:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return ()
