"""The walls as text: what it must and must not hold. tests/walls tries their effect."""

import re
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.network import Count, Policy, Refusal, Wall, Walls, subnet_of
from sandbox.network.ruleset import END_MARK, METADATA, bridge_prefix, render, table_name
from sandbox.profile import Network
from sandbox.template import InstallationId, SandboxName
from tests.sandbox.network.policies import policies

INSTALLATION = InstallationId("0badcafe")
installations = st.text("0123456789abcdef", min_size=8, max_size=8).map(InstallationId)


def walls(*policies: Policy) -> dict[str, Wall]:
    subnets = list(IPv4Network("10.213.0.0/24").subnets(new_prefix=29))
    return {
        SandboxName(INSTALLATION, number).bridge: Wall(subnets[number], policy)
        for number, policy in enumerate(policies, start=1)
    }


@given(installations, st.integers(0, 2**40))
def test_every_bridge_of_an_installation_has_its_prefix(installation: InstallationId, generation: int) -> None:
    assert SandboxName(installation, generation).bridge.startswith(bridge_prefix(installation))


@given(installations, installations, st.integers(0, 2**40))
def test_no_other_installations_bridge_has_it(one: InstallationId, other: InstallationId, generation: int) -> None:
    if one[:6] != other[:6]:
        assert not SandboxName(other, generation).bridge.startswith(bridge_prefix(one))


def test_two_installations_have_two_tables() -> None:
    assert table_name(INSTALLATION) != table_name(InstallationId("0badcaff"))


@given(st.lists(policies, min_size=1, max_size=5))
def test_the_order_of_the_sandboxes_makes_no_difference(wanted: list[Policy]) -> None:
    built = walls(*wanted)
    backwards = dict(reversed(built.items()))
    assert render(INSTALLATION, built, [], {}) == render(INSTALLATION, backwards, [], {})


def test_sandboxes_of_one_policy_share_its_rules() -> None:
    text = render(INSTALLATION, walls(*[Policy(Network.INTERNET)] * 5, Policy(Network.NONE)), [], {})
    assert re.findall(r"chain (policy_\d+)", text) == ["policy_1", "policy_2"]


@given(st.integers(1, 31))
def test_a_sandbox_may_call_itself_by_its_own_subnet_alone_and_never_the_gateway(number: int) -> None:
    subnet = list(IPv4Network("10.213.0.0/24").subnets(new_prefix=29))[number]
    bridge = SandboxName(INSTALLATION, number).bridge
    text = render(INSTALLATION, {bridge: Wall(subnet, Policy(Network.INTERNET))}, [], {})
    sources = [IPv4Address(found) for found in re.findall(rf'"{bridge}" \. (\S+?),? ', text)]
    assert sources
    assert {subnet_of(source) for source in sources} == {subnet}
    assert not {subnet.network_address, subnet[1], subnet.broadcast_address} & set(sources)


@pytest.mark.parametrize("bridge", ["docker0", "sbx1234561", 'sbx0badca"x', "sbx0badca*", ""])
def test_a_bridge_that_is_not_the_installations_own(bridge: str) -> None:
    with pytest.raises(ValueError, match="none of this installation's"):
        Walls(INSTALLATION).put(bridge, Wall(IPv4Network("10.213.0.8/29"), Policy(Network.INTERNET)))


def test_counters_go_on_from_what_they_were() -> None:
    text = render(INSTALLATION, {}, [], {Refusal.HOST: Count(7, 420)})
    assert "counter refused_host { packets 7 bytes 420 }" in text
    assert "counter refused_none { packets 0 bytes 0 }" in text


@given(st.lists(policies, max_size=3))
def test_the_mark_is_on_the_last_rule(wanted: list[Policy]) -> None:
    """It says that a table was not emptied only if no rule comes after it."""
    text = render(INSTALLATION, walls(*wanted), [], {})
    assert text.count(END_MARK) == 1
    assert not re.search(r"\b(accept|drop|jump|goto)\b", text.partition(END_MARK)[2])


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "224.0.0.1"]
)
def test_where_clouds_keep_their_metadata(address: str) -> None:
    assert any(IPv4Address(address) in closed for closed in METADATA)


@given(st.lists(policies, max_size=3))
def test_no_set_is_of_a_plain_type(wanted: list[Policy]) -> None:
    """The trap: what nft 1.1.3 loads for one makes every nft 1.0.6 on that host crash, whatever it is asked."""
    text = render(INSTALLATION, walls(*wanted), [IPv4Network("172.17.0.0/16")], {})
    blocks = re.findall(r"^    (?:set|map) \w+ \{\n +(\w+)", text, re.MULTILINE)
    assert blocks
    assert set(blocks) == {"typeof"}
