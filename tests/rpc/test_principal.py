"""The principal of a stream is told from the address that it comes from."""

import pytest

from duly.rpc.principal import principal_of


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
