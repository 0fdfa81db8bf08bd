"""What may be given as an address, and what is said of the rest."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.addresses.address import Address


@pytest.mark.parametrize(
    ("text", "expected", "known_as"),
    [
        ("sandbox@192.0.2.7:22", Address("sandbox", "192.0.2.7", 22), "192.0.2.7"),
        ("ci@build-1.example.org:2222", Address("ci", "build-1.example.org", 2222), "[build-1.example.org]:2222"),
        ("_a.b-c@host:1", Address("_a.b-c", "host", 1), "[host]:1"),
        ("sandbox@[2001:db8::7]:22", Address("sandbox", "2001:db8::7", 22), "2001:db8::7"),
        ("sandbox@[2001:DB8:0::7]:2222", Address("sandbox", "2001:db8::7", 2222), "[2001:db8::7]:2222"),
    ],
)
def test_good_ones(text: str, expected: Address, known_as: str) -> None:
    found = Address.parse(text)
    assert (found, found.known_as) == (expected, known_as)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "must be USER@HOST:PORT"),
        ("192.0.2.7:22", "must be USER@HOST:PORT"),
        ("sandbox@192.0.2.7", "must be USER@HOST:PORT"),
        ("sandbox@2001:db8::7:22", "must be USER@HOST:PORT"),
        ("-oProxyCommand=x@host:22", "must be USER@HOST:PORT"),
        ("sandbox@host:22\n", "must be USER@HOST:PORT"),
        ("sandbox@[192.0.2.7]:22", "an IPv6 address in its brackets"),
        ("sandbox@-host:22", "a host's name or an IPv4 address"),
        ("sandbox@ho/st:22", "a host's name or an IPv4 address"),
        ("sandbox@host:0", "a port from 1 to"),
        ("sandbox@host:65536", "a port from 1 to"),
        ("root@host:22", "never root"),
    ],
)
def test_bad_ones(text: str, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        Address.parse(text)


@settings(max_examples=40)
@given(
    st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True).filter(lambda user: user != "root"),
    st.ip_addresses() | st.from_regex(r"[a-z0-9]{1,20}(\.[a-z0-9]{1,20}){0,3}", fullmatch=True),
    st.integers(1, 65535),
)
def test_what_is_printed_is_read_as_the_same(user: str, host: ipaddress.IPv4Address | str, port: int) -> None:
    address = Address(user, str(host), port)
    assert Address.parse(str(address)) == address
