"""The `sandbox` command loads what it needs, when it needs it."""

from __future__ import annotations

import gc
from contextlib import suppress
from importlib import import_module

import pytest

from sandbox import lean
from tests.starts import start

LATER = {"paramiko", "invoke", "docker", "requests", "jinja2", "asyncio"}


@pytest.mark.parametrize("command", ["up", "run", "ls", "inspect", "ping", "keeper"])
def test_no_command_waits_for_ssh_or_docker_before_it_knows_what_to_do(command: str) -> None:
    """The trap: an annotation that is evaluated, such as `-> ssh.Transport`, imports paramiko at the start."""
    loaded, children = start("sandbox", command, "--help", does="from sandbox import entry; entry.main()")
    assert "sandbox.cli" in loaded
    assert loaded & LATER == set()
    assert children == []


def test_docker_and_paramiko_come_without_what_we_never_use() -> None:
    loaded, _ = start("sandbox", does="from sandbox import lean; lean.do_without(); import paramiko, sandbox.engine")
    assert {"docker", "paramiko"} <= loaded
    assert loaded & {"invoke", "docker.transport.sshconn"} == set()


def test_what_is_loaded_is_never_searched_for_garbage_and_the_rest_is() -> None:
    frozen, enabled = gc.get_freeze_count(), []
    try:
        with suppress(ImportError), lean.loading():
            enabled.append(gc.isenabled())
            import_module("no_such_module")
        assert [*enabled, gc.isenabled()] == [False, True]
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
