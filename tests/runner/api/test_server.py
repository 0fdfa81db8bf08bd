"""The API and the service come and go together."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import httpx
import pytest

from runner.api.server import Tls, serve
from runner.errors import InputError, StateError
from runner.execution.lease import Access, SandboxFacts
from runner.job import Job
from runner.store.states import JobState
from tests.certificates import certificate
from tests.runner.api.test_app import app_of
from tests.runner.conftest import FakeLeases, hang
from tests.runner.service.state import State, service_of

pytestmark = pytest.mark.anyio


def no_sandbox() -> FakeLeases:
    """Never lends anything."""

    def nowhere() -> Access:
        raise AssertionError

    return FakeLeases(nowhere, {"lend": hang, "resume": hang})


async def test_a_port_that_is_taken_is_told_and_ends_no_job(tmp_path: Path) -> None:
    """The trap: a restart that fails would end the jobs that a crash had left running."""
    state = State(tmp_path)
    service = service_of(state, no_sandbox())
    job = await service.submit(Job(b"true"))
    app = app_of(service, tmp_path)
    listening = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = cast(int, taken.getsockname()[1])
        with pytest.raises(StateError, match=f"cannot listen on 127.0.0.1:{port}"):
            await serve(service, app, "127.0.0.1", port, listening=listening.set)
    assert not listening.is_set()
    again = await State(tmp_path).records.get(job.id)
    assert again
    assert (again.state, again.cancellation.cause) == (JobState.QUEUED, None)


def certified(folder: Path) -> Tls:
    """A certificate for this machine, and its key, as files."""
    made = certificate("localhost")
    (folder / "certificate.pem").write_bytes(made.public)
    (folder / "key.pem").write_bytes(made.private)
    return Tls(folder / "certificate.pem", folder / "key.pem")


async def test_with_a_certificate_it_serves_https_and_nothing_else(tmp_path: Path) -> None:
    state = State(tmp_path)
    service = service_of(state, no_sandbox())
    app = app_of(service, tmp_path)
    tls = certified(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    listening = asyncio.Event()
    serving = asyncio.create_task(serve(service, app, "127.0.0.1", port, tls, listening=listening.set))
    trusted = ssl.create_default_context(cafile=tls.certificate)
    async with httpx.AsyncClient(verify=trusted) as client, asyncio.timeout(60):
        await listening.wait()
        assert (await client.get(f"https://localhost:{port}/live")).status_code == 200
        with pytest.raises(httpx.HTTPError):
            await client.get(f"http://localhost:{port}/live")
    service.stop()
    await serving


async def test_a_defect_is_answered_as_a_problem_and_stands_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> Sequence[SandboxFacts]:
        raise KeyError("a secret detail")

    state = State(tmp_path)
    service = service_of(state, no_sandbox())
    app = app_of(service, tmp_path, known=broken)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    listening = asyncio.Event()
    serving = asyncio.create_task(serve(service, app, "127.0.0.1", port, listening=listening.set))
    headers = {"Authorization": f"Bearer {(tmp_path / 'token').read_text().strip()}"}
    async with httpx.AsyncClient() as client, asyncio.timeout(60):
        await listening.wait()
        said = await client.get(f"http://127.0.0.1:{port}/v1/sandboxes", headers=headers)
    service.stop()
    await serving
    assert (said.status_code, said.headers["content-type"]) == (500, "application/problem+json")
    assert said.json()["detail"].startswith("The runner met an error of its own. Please report it")
    assert "a secret detail" not in said.text
    [logged] = [record for record in caplog.records if record.exc_info]
    assert (logged.name, logged.exc_info and logged.exc_info[0]) == ("uvicorn.error", KeyError)


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_a_certificate_that_cannot_be_used_is_told(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / "key.pem").write_text(content)
    with pytest.raises(InputError, match=r"key\.pem cannot be used"):
        Tls(tmp_path / "certificate.pem", tmp_path / "key.pem")
