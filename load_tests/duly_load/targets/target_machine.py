"""Which machine a target runs on, as far as its address says."""

import ipaddress

from duly_load.protocols.address import parse_address


def machine_of(target: str) -> str:
    """What a target, as the user names it, runs on: the generator's machine too, or nobody knows."""
    if ":" not in target:
        return "the same"  # a peer, which the harness starts
    endpoint = parse_address(target).endpoint
    if not endpoint or endpoint.startswith("unix:"):
        return "the same"
    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    return "the same" if here else "not known"
