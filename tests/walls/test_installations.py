"""Two installations on one engine, whose sandboxes have subnets of one range: neither's may call the other's."""

from ipaddress import IPv4Network
from pathlib import Path
from typing import NamedTuple, cast

import pytest

from sandbox.adhoc.store import Store
from sandbox.adhoc.walls import Enclosure
from sandbox.config import KeeperConfig
from sandbox.engine import Engine
from sandbox.keeper.guard import Guard
from sandbox.network import Refusal
from sandbox.network.ruleset import table_name
from tests.sandbox.adhoc.records import record
from tests.waiting import until
from tests.walls import lab as at
from tests.walls.lab import Lab
from tests.walls.packets import Kind, ear, send

RANGE = at.NEIGHBOURS.supernet(8)


class _Engine(NamedTuple):
    """Has networks."""

    bridges: list[IPv4Network]

    def taken_subnets(self, driver: str) -> list[IPv4Network]:
        assert driver == "bridge"
        return self.bridges


@pytest.mark.parametrize("kind", [Kind.TCP, Kind.UDP, Kind.ICMP], ids=lambda kind: kind.name.lower())
def test_a_keepers_sandbox_calls_none_of_somebody_elses_in_the_same_range(lab: Lab, kind: Kind) -> None:
    """Theirs may have no walls of their own: those of a user who may not put any up."""
    guard = Guard(KeeperConfig(network_range=RANGE), lab.walls)
    hears = ear(lab.neighbour, kind, 30000)
    with hears.sock:
        with send(lab.one, kind, at.NEIGHBOUR, 30000):
            until("it arrives without the walls", hears.has_heard)
        lab.ensure(at.OPEN)
        lab.host.call(lambda: guard.look(at.BRIDGES))
        hears.forget()
        before = lab.count(Refusal.NEIGHBOUR).packets
        with send(lab.one, kind, at.NEIGHBOUR, 30000):
            until("it is refused", lambda: lab.has_refused(Refusal.NEIGHBOUR, before))
        assert not hears.has_heard()


def test_an_ad_hoc_sandbox_calls_none_of_a_keepers(lab: Lab, tmp_path: Path) -> None:
    """Whatever range the keeper has, which nobody here knows."""
    store = Store(tmp_path)
    store.claim(record(store, subnet=IPv4Network("10.213.9.0/29")))
    keepers = IPv4Network("10.213.4.8/29")
    enclosure = Enclosure(store, cast("Engine", _Engine([IPv4Network("10.213.9.0/29"), keepers])))
    lab.host.call(enclosure.stand)
    shown = lab.host.run("nft", "list", "set", "inet", table_name(store.installation), "neighbours")
    lab.host.run("nft", "delete", "table", "inet", table_name(store.installation))
    assert str(keepers) in shown
