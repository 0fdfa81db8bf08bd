"""A wedged host: the keeper lends nothing and says why, and goes on by itself when the host does."""

import logging
import threading
from collections.abc import Callable

import pytest

from sandbox.calls import CallBegan, CallEnded, End, Listed, Step
from sandbox.errors import Fault, NotNow
from sandbox.health import MADE_AT_ONCE, FreshUnfit
from sandbox.keeper import protocol
from sandbox.state import BEING_MADE, State
from tests.sandbox.keeper.conftest import MARGIN, Host, World


def wedge(world: World) -> None:
    """Two sandboxes that served nobody fail at once."""
    for container in ("one", "another"):
        world.watch.observe(FreshUnfit("default", container, Fault.SSH_DEAD, "Its sshd hung."))


def recover(world: World) -> None:
    """The runtime removes something that ran."""
    world.watch.observe(CallBegan(1, Step.LIST))
    world.watch.observe(Listed(1, {"third": True}))
    world.watch.observe(CallEnded(1, End.ANSWERED))
    world.watch.observe(CallBegan(2, Step.REMOVE, "third"))
    world.watch.observe(CallEnded(2, End.ANSWERED))


def test_nothing_is_lent_on_a_wedged_host_and_the_refusal_says_why(world: World) -> None:
    world.wait_for("a sandbox", lambda: world.states() == [State.READY])
    wedge(world)
    with pytest.raises(NotNow, match="The host: 2 sandboxes fail at once"):
        world.lend(wait=0.1)
    pong, listing = world.keeper.verbs.ping(), world.keeper.verbs.listing()
    assert (pong.fit, listing.host) == (False, "wedged")
    assert pong.message == listing.trouble
    assert "systemctl status" in pong.message


def test_a_waiting_request_is_served_when_the_host_is_well_again(world: World) -> None:
    world.wait_for("a sandbox", lambda: world.states() == [State.READY])
    wedge(world)
    granted: list[protocol.LeaseGrant] = []
    asking = threading.Thread(target=lambda: granted.append(world.lend()))
    asking.start()
    world.wait_for("its waiting", lambda: world.keeper._stock.wants)
    recover(world)
    asking.join(10)
    assert granted[0].sandbox == world.host.made[0]


def test_on_a_wedged_host_nothing_is_made_at_once(world: World) -> None:
    grant = world.lend()
    wedge(world)
    world.keeper.verbs.condemn(protocol.Condemn(token=grant.token, reason="next"))
    world.keeper.reconcile_once()
    assert world.host.made == [grant.sandbox]


def test_no_more_sandboxes_are_made_at_once_than_the_host_bears(
    make: Callable[..., World], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: a cold keeper, or one whose sandboxes all went, starts them all at the same moment."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    began, being_made = threading.Event(), list[int]()

    def look() -> None:
        assert began.wait(MARGIN)
        being_made.append(sum(s.state in BEING_MADE for s in world.keeper._stock.pool))

    host.on_build = look
    world = make(warm=6)
    began.set()
    world.wait_for("all of them", lambda: world.states() == [State.READY] * 6)
    assert max(being_made) == MADE_AT_ONCE


def test_a_change_is_told_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    wedge(world)
    for _ in range(3):
        world.keeper.reconcile_once()
    assert caplog.text.count("the host is wedged") == 1
    recover(world)
    assert caplog.text.count("the host is well") == 1


def test_a_creation_that_meets_a_defect_blocks_no_other(make: Callable[..., World], host: Host) -> None:
    """The trap: a creation whose end nobody told would count as under way for ever."""
    host.on_build = lambda: 1 // 0  # before there is a keeper, which is quick
    world = make()
    world.wait_for_condemned(Fault.KEEPER_DEFECT)
    world.host.on_build = lambda: None
    assert world.lend().sandbox == world.host.made[-1]
