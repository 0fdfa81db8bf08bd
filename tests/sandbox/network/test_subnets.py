"""Subnets for sandboxes: inside the range, and apart from all others."""

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ConfigError
from sandbox.network import SUBNET_PREFIX, free_subnet, subnet_of

RANGE = IPv4Network("10.213.0.0/24")
ALL = list(RANGE.subnets(new_prefix=SUBNET_PREFIX))

networks = st.builds(
    lambda address, prefix: IPv4Network((address, prefix), strict=False),
    st.integers(int(RANGE.network_address) - 512, int(RANGE.broadcast_address) + 512),
    st.integers(25, 32),
)


@given(st.lists(networks, max_size=20), st.integers(0, 10**9))
def test_a_subnet_is_in_the_range_and_overlaps_nothing(taken: list[IPv4Network], after: int) -> None:
    free = [subnet for subnet in ALL if not any(subnet.overlaps(network) for network in taken)]
    if not free:
        with pytest.raises(ConfigError):
            free_subnet(RANGE, taken, after)
        return
    assert free_subnet(RANGE, taken, after) in free


def test_a_full_range_names_the_setting_that_helps() -> None:
    with pytest.raises(ConfigError, match=r"10\.213\.0\.0/24.*network_range"):
        free_subnet(RANGE, ALL, 0)


def test_one_foreign_network_around_the_range_fills_it() -> None:
    with pytest.raises(ConfigError):
        free_subnet(RANGE, [IPv4Network("10.0.0.0/8")], 3)


def test_the_next_generation_gets_the_next_subnet_although_the_last_is_free_again() -> None:
    assert free_subnet(RANGE, [], 5) != free_subnet(RANGE, [], 6)


def test_the_search_goes_around_the_end_of_the_range() -> None:
    assert free_subnet(RANGE, [ALL[-1]], len(ALL) - 1) == ALL[0]


def test_a_whole_range_can_be_given_out() -> None:
    taken: list[IPv4Network] = []
    for generation in range(len(ALL)):
        taken.append(free_subnet(RANGE, taken, generation * 7))
    assert sorted(taken) == ALL


@given(st.sampled_from(ALL), st.integers(0, 7))
def test_the_subnet_is_known_by_any_address_in_it(subnet: IPv4Network, number: int) -> None:
    assert subnet_of(subnet[number]) == subnet
