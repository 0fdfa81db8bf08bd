"""Every action is logged somewhere, and has a line in the manual."""

from __future__ import annotations

import ast

from runner.logs import Action
from runner.service.mode import Mode
from runner.service.watermark import Disk
from sandbox.logs import Action as KeeperAction
from tests.monitoring.pages import LOGS, METRICS, logs_page, metrics_page
from tests.monitoring.source import ROOT, members, modules

OF_LIBRARIES = {"runner/execution/session.py", "runner/service/webhooks.py", "sandbox/ssh.py"}
"""These set how much a library tells; they tell nothing themselves."""


def imports(tree: ast.Module, name: str) -> bool:
    return any(isinstance(node, ast.Import) and name in [alias.name for alias in node.names] for node in ast.walk(tree))


def test_nobody_but_one_module_meets_logging() -> None:
    meeting = {path for path, tree in modules() if imports(tree, "logging")}
    assert meeting == {"sandbox/logs.py", *OF_LIBRARIES}


def test_every_action_is_told_somewhere() -> None:
    text = {package: "".join(ast.unparse(t) for p, t in modules() if p.startswith(package)) for package in NOTED}
    for package, noted in NOTED.items():
        actions = KeeperAction if package == "sandbox" else Action
        silent = {a.value for a in actions if f"Action.{a.name}" not in text[package]} - noted
        assert silent == set()


def test_every_mode_and_every_state_of_the_disk_is_an_action() -> None:
    # The trap: the service tells of both by their own names, and one that is no action would end it.
    assert {mode.value for mode in Mode} | {f"disk_{disk}" for disk in Disk} <= set(Action)


NOTED = {
    "sandbox": set[str](),
    "runner": {mode.value for mode in Mode} | {f"disk_{disk}" for disk in Disk},
}
"""Told by a name that something else has: a mode, the state of a disk."""


def test_the_manual_has_them_all() -> None:
    assert set(members("sandbox/logs.py", "Action")) == {a.value for a in KeeperAction}
    assert set(members("runner/logs.py", "Action")) == {a.value for a in Action}
    assert (ROOT / LOGS).read_text() == logs_page(), "write it anew: python -m tests.monitoring.pages"
    assert (ROOT / METRICS).read_text() == metrics_page(), "write it anew: python -m tests.monitoring.pages"
