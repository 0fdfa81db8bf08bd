"""A new image: tried, taken or refused."""

import pytest

from sandbox.breaker import IN_A_ROW
from sandbox.errors import Fault
from sandbox.rollout import Rollout


def fail(rollout: Rollout, times: int, fault: Fault = Fault.SSH_DEAD) -> None:
    for now in range(times):
        rollout.failed("new", float(now), fault, "Its sshd never came up.", float(now))


def rolling() -> Rollout:
    rollout = Rollout("old")
    rollout.named("new")
    return rollout


def test_the_image_in_use_is_nothing_new() -> None:
    rollout = Rollout("old")
    rollout.named("old")
    assert not rollout.may_try(0.0)


def test_a_new_image_is_tried_before_it_is_used() -> None:
    rollout = rolling()
    assert rollout.may_try(0.0)
    assert rollout.image == "old"
    rollout.proven("new")
    assert rollout.image == "new"
    assert rollout.candidate is None


def test_the_proof_of_another_image_proves_nothing() -> None:
    rollout = rolling()
    rollout.proven("old")
    assert (rollout.image, rollout.candidate) == ("old", "new")


def test_an_unfit_image_is_refused_after_a_few_tries_and_says_why() -> None:
    rollout = rolling()
    fail(rollout, IN_A_ROW - 1)
    assert rollout.candidate == "new"
    fail(rollout, 1)
    assert repr(rollout).startswith("Rollout(image='old', candidate=None, refused='new'")
    assert "ssh-dead" in rollout.sentence
    assert "Its sshd never came up." in rollout.sentence
    assert "made from old" in rollout.sentence


def test_a_refused_image_that_is_still_named_stays_refused_with_its_reason() -> None:
    """The trap: the name is looked up again every few seconds."""
    rollout = rolling()
    fail(rollout, IN_A_ROW)
    rollout.named("new")
    assert not rollout.may_try(1e6)
    assert "Its sshd never came up." in rollout.sentence


@pytest.mark.parametrize("named", ["newer", "old"])
def test_another_name_ends_a_refusal(named: str) -> None:
    rollout = rolling()
    fail(rollout, IN_A_ROW)
    rollout.named(named)
    assert rollout.sentence == ""
    assert rollout.candidate == (None if named == "old" else named)


def test_a_refused_image_is_tried_again_when_somebody_asks_for_it() -> None:
    rollout = rolling()
    fail(rollout, IN_A_ROW)
    rollout.forgive()
    rollout.named("new")
    assert rollout.may_try(0.0)


def test_tries_come_later_and_later() -> None:
    rollout = rolling()
    fail(rollout, 1)
    assert not rollout.may_try(0.5)
    assert rollout.may_try(1.0)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.NO_SUBNET,
        Fault.NO_WALLS,
        Fault.HOST_DISK,
        Fault.KEEPER_DEFECT,
        Fault.WRONG_RUNTIME,
        Fault.ENGINE_FAILED,
    ],
)
def test_no_image_is_refused_for_what_is_the_hosts_fault(fault: Fault) -> None:
    rollout = rolling()
    fail(rollout, 10 * IN_A_ROW, fault)
    assert rollout.candidate == "new"
    assert rollout.may_try(1e6)


def test_the_hosts_fault_is_no_count_against_an_image() -> None:
    rollout = rolling()
    fail(rollout, IN_A_ROW - 1)
    fail(rollout, 1, Fault.ENGINE_FAILED)
    fail(rollout, IN_A_ROW - 1)
    assert rollout.candidate == "new"
    rollout.proven("new")
    assert (rollout.image, rollout.sentence) == ("new", "")


def test_what_becomes_of_an_older_candidate_does_not_matter_to_a_newer_one() -> None:
    rollout = rolling()
    rollout.named("newer")
    fail(rollout, IN_A_ROW)
    rollout.proven("new")
    assert (rollout.image, rollout.candidate) == ("old", "newer")
