"""What is brought into a job's sandbox and out of it around its stages, by hooks and service as they are."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runner.execution.transfer import File
from runner.gitlab import turn, workplace
from runner.gitlab.containers.plan import END_CONTAINER
from runner.gitlab.containers.policy import ImagePolicy
from runner.gitlab.response import parse
from runner.gitlab.store import CacheStore
from runner.gitlab.workplace import Workplace
from tests.runner.conftest import hang, lose
from tests.runner.gitlab.conftest import KEY as OURS
from tests.runner.gitlab.conftest import REPOSITORY, Lab, Manager, ended, response, terminate
from tests.runner.gitlab.test_hooks import changed, start
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

KEY = "group/project/deps-protected/cache.zip"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CacheStore]:
    store = CacheStore(tmp_path / "caches", 1_000_000)
    yield store
    store.close()


@pytest.fixture
async def supplied(lab: Lab, store: CacheStore, tmp_path: Path) -> Lab:
    """A service that keeps caches and has a helper, for `box` images alone."""
    helper = tmp_path / "helper"
    helper.write_text("#!/bin/sh\necho helped\n")
    await lab.end()
    images = ImagePolicy.parse(["box:*"], [])
    lab.options = replace(lab.options, caches=store, helper=helper, images=images)
    lab.begin()
    return lab


def writing(lab: Lab, text: str) -> str:
    """A script that makes a cache as gitlab-runner would."""
    file = f"{lab.options.cache}/{KEY}"
    return f"mkdir -p {Path(file).parent}; echo {text} >{file}"


async def test_a_cache_is_there_for_the_next_job_and_the_helper_only_where_it_is_called(supplied: Lab) -> None:
    one = await supplied.prepared(1)
    assert (await one.run("command -v gitlab-runner || echo none")).out == b"none\n"
    end = await one.run(writing(supplied, "kept") + "; gitlab-runner", "archive_cache")
    assert (end.code, end.out[:7], end.err) == (0, b"helped\n", "")
    assert f"Kept the cache {KEY}" in end.said
    assert (await one.run("true", "archive_cache")).said == ""

    file = Path(supplied.options.cache, KEY)
    file.unlink()
    other = await supplied.prepared(2, git_info={"repo_url": REPOSITORY, "protected": False})
    assert (await other.run(f"cat {file}", "restore_cache")).code == 1
    same = await supplied.prepared(3)
    end = await same.run(f"cat {file}", "restore_cache")
    assert (end.out[-6:], f"Brought in the cache {KEY}" in end.said) == (b"\nkept\n", True)


async def test_a_helper_that_could_not_be_brought_in_is_tried_again(supplied: Lab) -> None:
    """The trap: it is missed once for a cache, and then for the job's artifacts."""
    manager = await supplied.prepared()
    in_its_way = Path(supplied.options.commands)
    in_its_way.parent.mkdir(exist_ok=True)
    in_its_way.touch()
    assert "gitlab-runner could not be brought in" in (await manager.run("true", "restore_cache")).said
    in_its_way.unlink()
    end = await manager.run("gitlab-runner", "upload_artifacts_on_success")
    assert (end.code, end.said) == (0, "helped\n")
    Path(in_its_way, "gitlab-runner").write_text("#!/bin/sh\necho the one that is there\n")
    assert (await manager.run("gitlab-runner", "archive_cache")).out.startswith(b"the one that is there\n")


@pytest.fixture
def supplying(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set while a helper is being brought in, which has no end."""
    begun = asyncio.Event()

    async def bring_in(*_: object) -> list[str]:
        begun.set()
        await hang()
        return []

    monkeypatch.setattr(workplace, "bring_in_helper", bring_in)
    return begun


async def test_a_stage_that_is_cancelled_before_it_began_does_not_begin(
    supplied: Lab, supplying: asyncio.Event, tmp_path: Path
) -> None:
    manager = await supplied.prepared()
    stage = await manager.start("run", manager.script(f"touch {tmp_path / 'begun'}; sleep 5"), "download_artifacts")
    await supplying.wait()
    terminate(stage)
    end = await ended(stage)
    assert (end.code, "cancelled by GitLab" in end.said) == (2, True)
    assert not (tmp_path / "begun").exists()
    assert supplied.jobs.live[0].record.note.stage is None


async def test_a_stage_that_the_runner_leaves_before_it_began_begins_in_the_next_life(
    supplied: Lab, supplying: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = await supplied.prepared()
    stage = await manager.start("run", manager.script("echo begun"), "download_artifacts")
    await supplying.wait()
    [live] = supplied.jobs.live
    await supplied.leave()
    assert live.record.note.stage is None
    monkeypatch.undo()
    supplied.begin()
    assert (await ended(stage)).out == b"begun\n"


async def test_what_failed_to_be_archived_is_not_kept(supplied: Lab) -> None:
    manager = await supplied.prepared()
    assert (await manager.run(writing(supplied, "half") + "; exit 1", "archive_cache")).code == 1
    assert supplied.options.caches
    assert supplied.options.caches.entries(OURS) == []


async def test_a_cache_is_kept_over_a_restart_of_the_service(supplied: Lab) -> None:
    """The trap: the life that saw the stage begin is not the one that sees its end."""
    manager = await supplied.prepared()
    script = writing(supplied, "kept") + "; echo ready; while [ ! -e go ]; do sleep 0.05; done"
    stage = await start(manager, script, "archive_cache")
    await supplied.leave()
    Path(supplied.options.settings.workspace, "go").touch()
    supplied.begin()
    assert (await stage.end()).code == 0
    assert supplied.options.caches
    assert [entry.path for entry in supplied.options.caches.entries(OURS)] == [KEY]


async def test_a_stage_that_is_asked_for_again_when_its_sandbox_is_lost(supplied: Lab) -> None:
    """It had its end, and there is nothing to keep a cache from any more."""
    manager = await supplied.prepared()
    hook = changed("posix.urandom = bytes", "run", manager.script("echo archived"), "archive_cache")
    assert (await ended(await manager.execute(*hook))).code == 0
    await supplied.leave()
    supplied.leases.trouble["resume"] = lose
    supplied.begin()
    end = await ended(await manager.execute(*hook))
    assert (end.code, end.said) == (0, "archived\n")


async def test_a_job_whose_artifacts_would_vanish_is_told_so(lab: Lab) -> None:
    """gitlab-runner's scripts only say "Missing gitlab-runner", and the job is green."""
    artifacts = [{"paths": ["out"]}]
    assert "WARNING: This job has a cache or artifacts" in (await lab.prepared(1, artifacts=artifacts)).said
    assert "WARNING" not in (await lab.prepared(2)).said


async def test_a_helper_that_is_given_is_not_missed(supplied: Lab) -> None:
    assert "WARNING" not in (await supplied.prepared(1, artifacts=[{"paths": ["out"]}])).said


async def prepared_with(lab: Lab, logins: str) -> Manager:
    """Return the manager of a job for which gitlab-runner has logins."""
    manager = lab.manager()
    assert (await manager.config()).code == 0
    manager.environment["CUSTOM_ENV_DOCKER_AUTH_CONFIG"] = logins
    end = await manager.hook("prepare")
    assert end.code == 0
    manager.said = end.said
    return manager


async def test_logins_of_gitlab_runner_s_own_configuration_are_the_job_s(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """The trap: they are in the environment of the hooks alone. And they are noted nowhere."""
    caplog.set_level(logging.DEBUG)
    file = Path(lab.options.home, ".docker", "config.json")
    manager = await prepared_with(lab, '{"auths": {"r.example.com": {"auth": "the-secret"}}}')
    assert json.loads(file.read_text()) == {"auths": {"r.example.com": {"auth": "the-secret"}}}
    assert (await manager.run("echo $DOCKER_CONFIG")).out == f"{file.parent}\n".encode()
    noted = [path.read_text() for path in (lab.folder / "jobs").rglob("*") if path.is_file()]
    assert not [text for text in (*noted, caplog.text, manager.said) if "the-secret" in text]


async def test_logins_that_are_none_are_told(lab: Lab) -> None:
    said = (await prepared_with(lab, "nonsense")).said
    assert "The variable DOCKER_AUTH_CONFIG is no Docker configuration" in said
    assert "nonsense" not in said


async def test_a_docker_configuration_of_the_sandbox_s_own_is_left_alone_and_told(lab: Lab) -> None:
    file = Path(lab.options.home, ".docker", "config.json")
    file.parent.mkdir(parents=True)
    file.write_text("the image's")
    assert "none of the job's logins" in (await prepared_with(lab, '{"auths": {"r": {}}}')).said
    assert file.read_text() == "the image's"


async def test_an_image_that_is_refused_is_the_jobs_own_failure(supplied: Lab) -> None:
    manager = supplied.manager(image={"name": "other:1"})
    assert (await manager.config()).code == 0
    end = await manager.hook("prepare")
    assert end.code == 1
    assert "does not allow the image other:1. Use one of: box:*" in end.said


@pytest.mark.parametrize("restart", [False, True])
async def test_after_a_cancel_the_job_s_container_is_ended_once_more(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, restart: bool
) -> None:
    """Whatever was to end it may have been killed first. A stage that ends by itself has ended its container."""
    swept = tmp_path / "swept"
    monkeypatch.setattr(Workplace, "sweep", f"#!/bin/sh\ntouch {swept}\n".encode())
    manager = await lab.prepared()
    assert (await manager.run("true")).code == 0
    assert not swept.exists()
    stage = await start(manager, "echo ready; exec sleep 300")
    if restart:
        await lab.leave()
        lab.begin()
        await eventually(lambda: len(lab.leases.resumed) >= 2)  # the job's lease, and the stage's own way in
    terminate(stage.process)
    assert "cancelled by GitLab" in (await stage.end()).said
    assert swept.exists()
    assert (await manager.run("echo after", "after_script")).out == b"after\n"


@pytest.mark.parametrize("sweep", [b"#!/bin/sh\nexit 1\n", b"#!/bin/sh\nexec sleep 300\n"], ids=["fails", "hangs"])
async def test_a_container_that_cannot_be_ended_condemns_the_sandbox(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, sweep: bytes
) -> None:
    monkeypatch.setattr(Workplace, "sweep", sweep)
    monkeypatch.setattr(turn, "SWEEP", 0.5)
    manager = await lab.prepared()
    stage = await start(manager, "echo ready; exec sleep 300")
    terminate(stage.process)
    end = await stage.end()
    assert (end.code, "container could not be ended" in end.said) == (2, True)
    assert "could not be ended" in (await manager.run("true", "after_script")).said
    await eventually(lambda: [call.partition(":")[0] for call in lab.leases.calls] == ["condemn"])


async def test_only_a_job_with_an_image_has_a_container_to_end(lab: Lab) -> None:
    for image, sweep in (("", b""), ("box:1", END_CONTAINER)):
        job = parse(json.dumps(response(image={"name": image})).encode())
        assert Workplace(job, lab.options, used=False).sweep == sweep


async def test_a_cache_of_a_release_that_did_not_tell_gitlabs_apart_is_nobody_s(
    supplied: Lab, store: CacheStore
) -> None:
    """The trap: it may be of the other GitLab's project of that number."""
    file = Path(supplied.options.cache, KEY)
    with store.write("gitlab-3-protected", File(KEY, 4, 0)) as old:
        old.write(b"old\n")
    manager = await supplied.prepared()
    end = await manager.run(f"cat {file}", "restore_cache")
    assert (end.code, "Brought in" in end.said) == (1, False)
