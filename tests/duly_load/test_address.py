"""How targets are named."""

import pytest

from duly_load.protocols.address import Address, AddressError, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("duly://127.0.0.1:8500", Address("duly", "127.0.0.1:8500")),
        ("duly://[::1]:8500", Address("duly", "[::1]:8500")),
        ("unix:/run/duly.sock", Address("duly", "unix:/run/duly.sock")),
        ("unix:/run/duly.sock?advice=follow", Address("duly", "unix:/run/duly.sock", follow_advice=True)),
        ("duly+unix:/run/duly.sock", Address("duly", "unix:/run/duly.sock")),
        ("kserve+unix:relative.sock", Address("kserve", "unix:relative.sock")),
        ("kserve://triton:8001", Address("kserve", "triton:8001")),
        ("kserve://triton:8001?timeout=budget", Address("kserve", "triton:8001", timeout=True)),
        ("kserve://triton:8001?calls=unary&timeout=budget", Address("kserve", "triton:8001", True, True)),
        ("kserve://triton:8001?calls=streams", Address("kserve", "triton:8001")),
        ("kserve://duly:8500?terms=duly", Address("kserve", "duly:8500", duly_terms=True)),
        ("null:", Address("null", "")),
    ],
)
def test_an_address_says_what_to_connect_to_and_how(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "should be duly://HOST:PORT, unix:PATH, kserve://HOST:PORT or null:"),
        ("127.0.0.1:8500", "should be duly://HOST:PORT, unix:PATH, kserve://HOST:PORT or null:"),
        ("http://127.0.0.1:8500", "should be duly://HOST:PORT, unix:PATH, kserve://HOST:PORT or null:"),
        ("duly://", "should be HOST:PORT after ://, with a port from 1 to 65535"),
        ("duly://host", "should be HOST:PORT after ://, with a port from 1 to 65535"),
        ("duly://host:8²", "should be HOST:PORT after ://, with a port from 1 to 65535"),
        ("duly://host:٨", "should be HOST:PORT after ://, with a port from 1 to 65535"),
        ("duly://host:0", "should be HOST:PORT after ://, with a port from 1 to 65535"),
        ("duly://host:65536", "should be HOST:PORT after ://, with a port from 1 to 65535"),
        ("duly://host:1/path", "should be HOST:PORT after ://, with a port from 1 to 65535"),
        ("unix:", "should name the socket, as in unix:/run/duly.sock"),
        (
            "kserve://host:1?timeout=5",
            "timeout=5 should be calls=streams or calls=unary or timeout=budget or terms=duly",
        ),
        (
            "kserve://host:1?speed=high",
            "speed=high should be calls=streams or calls=unary or timeout=budget or terms=duly",
        ),
        ("duly://host:1?timeout=budget", "duly takes no ?timeout=budget; duly:// takes ?advice=follow"),
        ("null:?advice=follow", "null takes no ?advice=follow; duly:// takes ?advice=follow"),
    ],
)
def test_a_wrong_address_is_told_with_what_would_be_right(text: str, why: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert str(caught.value) == f"{text!r}: {why}"
