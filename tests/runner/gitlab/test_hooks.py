"""The four hooks as processes, against the service's socket: what gitlab-runner sees of them."""

from __future__ import annotations

import json

import pytest

from tests.runner.conftest import until
from tests.runner.gitlab.conftest import Lab

pytestmark = pytest.mark.anyio


async def test_a_job(lab: Lab) -> None:
    manager = lab.manager()
    config = await manager.config()
    said = json.loads(config.out)
    assert (said["shell"], said["builds_dir_is_shared"]) == ("bash", False)
    assert config.err == ""
    prepare = await manager.hook("prepare")
    assert (prepare.code, prepare.err) == (0, "")
    assert b"sandbox-under-test" in prepare.out
    stage = await manager.run("echo out; echo err >&2; export X=1", "prepare_script")
    assert (stage.code, stage.out, stage.err) == (0, b"out\nerr\n", "")
    failed = await manager.run("echo $0; exit 42")
    assert (failed.code, failed.err) == (1, "")
    assert manager.exit_code == "42\n"
    assert (await manager.run("kill -9 $$", "after_script")).code == 1
    assert manager.exit_code == "137\n"
    assert (await manager.run("true", "a_stage_of_the_future")).code == 0
    assert len(lab.leases.leases) == 1
    cleanup = await manager.hook("cleanup")
    assert (cleanup.code, cleanup.out, cleanup.err) == (0, b"", "")
    await until(lambda: lab.leases.calls == ["give_back:used"])
    await until(lambda: not list((lab.folder / "jobs").iterdir()))
