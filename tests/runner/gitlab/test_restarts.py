"""What hooks and service make of a restart: gitlab-runner and the job's log see nothing of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.gitlab.wire import Done, encode, encode_end
from tests.runner.gitlab.conftest import Manager, ended, response

pytestmark = pytest.mark.anyio


async def test_config_says_one_document_though_the_service_ended_after_it(tmp_path: Path) -> None:
    """The trap: what a stage says goes on where it stood, and `config` is told all of it again."""
    manager = Manager(tmp_path / "manager", tmp_path / "gitlab.sock", response())
    answers: Iterator[bytes] = iter((encode(b"o", b'{"one": 1}'), encode(b"o", b'{"two": 2}') + encode_end(Done())))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(json.dumps(manager.response).encode())
        writer.write(next(answers))
        writer.close()

    async with await asyncio.start_unix_server(answer, manager.socket):
        end = await ended(await manager.start("config"))
    assert (end.code, end.err, json.loads(end.out)) == (0, "", {"two": 2})
