"""The runner's commands load what they need: each second module that somebody waits for was imported unawares."""

from __future__ import annotations

from tests.starts import start

MAIN = "from runner import entry; entry.main()"


def test_a_command_that_asks_the_service_pays_for_neither_ssh_nor_the_service() -> None:
    loaded, children = start("runner", "submit", "--help", does=MAIN)
    assert "runner.cli" in loaded
    assert loaded & {"asyncssh", "cryptography", "fastapi", "uvicorn", "sqlite3", "httpx"} == set()
    assert children == []


def test_a_hook_loads_nothing_else_of_ours() -> None:
    loaded, _ = start("runner", "gitlab", "cleanup", does=MAIN)
    assert {name for name in loaded if name.startswith("runner.")} == {
        "runner.entry", "runner.gitlab", "runner.gitlab.client",
    }  # fmt: skip
    assert loaded & {"typer", "asyncio", "pydantic", "sandbox"} == set()


def test_the_service_starts_no_compiler_and_brings_no_terminal_colours() -> None:
    """The trap: asyncssh looks for two libraries by `ctypes.util.find_library`, which asks ldconfig, gcc and ld."""
    does = "from runner import lean; lean.do_without(); import runner.cli, runner.serve"
    loaded, children = start("runner", does=f"{does}; from tests.runner.api.openapi import document; document()")
    assert {"asyncssh", "fastapi", "httpx"} <= loaded
    assert loaded & {"rich", "pygments", "pydantic.v1"} == set()
    assert children == []
