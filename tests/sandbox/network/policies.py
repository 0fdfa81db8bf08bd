"""Any policy that a keeper's file can express, with so few addresses and ports that rules often overlap."""

from ipaddress import IPv4Network

from hypothesis import strategies as st

from sandbox.network import Destination, Policy
from sandbox.network.policy import PortRange, Protocol
from sandbox.profile import Network

networks = st.builds(
    lambda high, low, prefix: IPv4Network((high << 29 | low << 9, prefix), strict=False),
    st.integers(0, 7),
    st.integers(0, 3),
    st.integers(1, 32),
)
port_ranges = st.builds(lambda first, more: PortRange(first, first + more), st.integers(1, 40), st.integers(0, 10))

destinations = st.builds(
    Destination,
    to=st.lists(networks, min_size=1, max_size=4).map(tuple),
    protocol=st.none() | st.sampled_from(Protocol),
    ports=st.lists(port_ranges, max_size=4).map(tuple),
)

policies = st.builds(
    Policy,
    network=st.sampled_from(Network),
    open=st.lists(destinations, max_size=3).map(tuple),
    close=st.lists(destinations, max_size=3).map(tuple),
)
