"""A new image under the same name: used between jobs, one sandbox after the other, and never at the pool's cost."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.engine import ImageUnfit
from sandbox.errors import EngineError, Fault, SandboxFault
from sandbox.state import State
from tests.sandbox.keeper.conftest import MARGIN, Host, World, fail


def images(world: World) -> list[str]:
    """What the sandboxes that are ready or lent were made from."""
    return sorted(
        world.host.made_from[s.name] for s in world.keeper._stock.pool if s.state in (State.READY, State.LEASED)
    )


def filled(make: Callable[..., World], warm: int = 2) -> World:
    world = make(warm=warm)
    world.wait_for("a full pool", lambda: images(world) == ["sha256:first"] * warm)
    return world


def test_warm_sandboxes_are_replaced_one_by_one(make: Callable[..., World], host: Host) -> None:
    world = filled(make, warm=3)
    fewest = 3

    def count() -> None:
        nonlocal fewest
        fewest = min(fewest, len(images(world)))

    host.on_remove = count
    host.tag("sha256:second")
    world.wait_for("the new image everywhere", lambda: images(world) == ["sha256:second"] * 3)
    assert sorted(world.condemned()) == [(name, Fault.IMAGE_REPLACED) for name in host.made[:3]]
    assert fewest == 3
    assert "prove idle" in host.calls, "the first one was not tried with a container in it"


def test_a_sandbox_that_is_lent_is_replaced_after_its_job(make: Callable[..., World], host: Host) -> None:
    world = filled(make, warm=1)
    grant = world.lend()
    host.tag("sha256:second")
    world.wait_for("the new one", lambda: images(world) == ["sha256:first", "sha256:second"])
    world.give_back(grant)
    assert world.wait_for_condemned(Fault.IMAGE_REPLACED) == grant.sandbox
    world.wait_for("the new one alone", lambda: images(world) == ["sha256:second"])


def test_the_next_job_gets_the_new_image(make: Callable[..., World], host: Host) -> None:
    world = filled(make)
    kept = world.lend("a0")
    host.tag("sha256:second")
    world.wait_for("the new ones", lambda: images(world) == ["sha256:first", "sha256:second"])
    assert host.made_from[world.lend("a2", key="bob").sandbox] == "sha256:second"
    world.give_back(kept)


def test_a_bad_image_is_refused_and_costs_no_sandbox(
    make: Callable[..., World], host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sandbox.breaker.MAX_BACK_OFF", 0.01)
    world = filled(make)
    host.unfit_images = {"sha256:second"}
    host.tag("sha256:second")
    world.wait_for("the refusal", lambda: "The new image second is not fit" in world.keeper.verbs.listing().trouble)
    assert images(world) == ["sha256:first"] * 2
    assert world.keeper.verbs.ping().fit
    assert "Its sshd never came up." in caplog.text
    assert host.made_from[world.lend().sandbox] == "sha256:first"


def test_what_is_lost_meanwhile_is_made_from_the_image_before(make: Callable[..., World], host: Host) -> None:
    """The trap: the one that tries the new image must not take the place of one that is needed."""
    world = filled(make, warm=1)
    trying, go = threading.Event(), threading.Event()

    def slowly() -> None:
        if host.made_from[host.made[-1]] == "sha256:second":
            trying.set()
            go.wait(MARGIN)

    host.on_build = slowly
    host.tag("sha256:second")
    assert trying.wait(MARGIN)
    host.containers[host.made[0]] = False
    world.wait_for("another one", lambda: images(world) == ["sha256:first"] and len(host.made) == 3)
    go.set()
    world.wait_for("the new image", lambda: images(world) == ["sha256:second"])


def test_one_in_which_no_container_runs_is_not_fit(
    make: Callable[..., World], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.breaker.MAX_BACK_OFF", 0.01)
    world = filled(make, warm=1)
    host.on_inspect = fail(SandboxFault(Fault.DOCKER_DEAD, "No container runs in it."))
    host.tag("sha256:second")
    world.wait_for("the refusal", lambda: "No container runs in it." in world.keeper.verbs.listing().trouble)
    assert images(world) == ["sha256:first"]


def test_an_engine_that_refuses_costs_no_good_image(
    make: Callable[..., World], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: sysbox-mgr is down for some seconds while the new image is on trial."""
    monkeypatch.setattr("sandbox.breaker.MAX_BACK_OFF", 0.01)
    world = filled(make)
    host.on_build = fail(EngineError("The Docker Engine refused 'start container': sysbox-mgr is not there."))
    host.tag("sha256:second")
    world.wait_for("many a try", lambda: len(world.condemned()) > 3)
    host.on_build = lambda: None
    world.wait_for("the new image everywhere", lambda: images(world) == ["sha256:second"] * 2)


def test_an_image_that_the_engine_cannot_start_is_refused(
    make: Callable[..., World], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.breaker.MAX_BACK_OFF", 0.01)
    world = filled(make)
    host.on_build = fail(ImageUnfit("The Docker Engine refused 'start container': unable to find user."))
    host.tag("sha256:second")
    world.wait_for("the refusal", lambda: "unable to find user" in world.keeper.verbs.listing().trouble)


def test_a_refused_image_is_tried_again_at_hup(
    make: Callable[..., World], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.breaker.MAX_BACK_OFF", 0.01)
    world = filled(make)
    host.unfit_images = {"sha256:second"}
    host.tag("sha256:second")
    world.wait_for("the refusal", lambda: world.keeper.verbs.listing().trouble)
    host.unfit_images = set()
    world.follow(warm=2)
    world.wait_for("the new image everywhere", lambda: images(world) == ["sha256:second"] * 2)
    assert world.keeper.verbs.listing().trouble == ""


def test_another_name_in_the_configuration_is_a_new_image(make: Callable[..., World], host: Host) -> None:
    world = filled(make)
    host.tag("sha256:next", "sandbox:next")
    world.follow(warm=2, image="sandbox:next")
    world.wait_for("the new image everywhere", lambda: images(world) == ["sha256:next"] * 2)


def test_a_name_that_means_nothing_is_told_once_and_changes_nothing(
    make: Callable[..., World], host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    world = filled(make)
    host.images.clear()
    world.wait_for("the error", lambda: "the image sandbox:latest is gone" in caplog.text)
    lost = world.lend()
    host.containers[lost.sandbox] = False
    world.wait_for("its successor", lambda: images(world) == ["sha256:first"] * 2 and len(host.made) == 3)
    assert caplog.text.count("the image sandbox:latest is gone") == 1


def test_when_the_image_in_use_was_removed_the_new_one_takes_its_place(make: Callable[..., World], host: Host) -> None:
    world = filled(make)
    host.image_ids.clear()
    host.tag("sha256:second")
    world.wait_for("the new image everywhere", lambda: images(world) == ["sha256:second"] * 2)


def test_a_restarted_keeper_tries_the_image_that_came_meanwhile(
    make: Callable[..., World], host: Host, tmp_path: Path
) -> None:
    first = filled(make)
    first.keeper.detach()
    first.thread.join(MARGIN)
    first.home.release()
    host.tag("sha256:second")
    host.unfit_images = {"sha256:second"}
    again = World(tmp_path, host, warm=2)
    again.keeper.start()
    rollout = again.keeper._stock.pool.rollouts["default"]
    assert (rollout.image, rollout.candidate) == ("sha256:first", "sha256:second")
    again.keeper.stop(0.0)
