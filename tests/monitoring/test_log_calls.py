"""Every event has an action, and every action a line in the manual."""

from __future__ import annotations

import ast

from runner.logs import Action
from runner.service.mode import Mode
from runner.service.watermark import Disk
from sandbox.logs import Action as KeeperAction
from tests.monitoring.pages import LOGS, logs_page
from tests.monitoring.source import ROOT, members, modules

#: These set how much a library tells; they tell nothing themselves.
OF_LIBRARIES = {"runner/execution/session.py", "sandbox/ssh.py"}
TELLING = ("info", "warning", "error")


def imports(tree: ast.Module, name: str) -> bool:
    return any(isinstance(node, ast.Import) and name in [alias.name for alias in node.names] for node in ast.walk(tree))


def calls(tree: ast.Module) -> list[ast.Call]:
    """What is told by a module's `events`."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in TELLING
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("events", "_events")
    ]


def test_nobody_but_one_module_meets_logging() -> None:
    meeting = {path for path, tree in modules() if imports(tree, "logging")}
    assert meeting == {"sandbox/logs.py", *OF_LIBRARIES}


def test_every_event_has_an_action_by_name() -> None:
    told = [(path, call) for path, tree in modules() for call in calls(tree)]
    assert len(told) > 60
    for path, call in told:
        assert ast.unparse(call.args[0]).startswith(("Action.", "Action(")), f"{path}:{call.lineno}"


def test_every_action_is_told_somewhere() -> None:
    text = {package: "".join(ast.unparse(t) for p, t in modules() if p.startswith(package)) for package in NOTED}
    for package, noted in NOTED.items():
        actions = KeeperAction if package == "sandbox" else Action
        silent = {a.value for a in actions if f"Action.{a.name}" not in text[package]} - noted
        assert silent == set()


def notes() -> set[str]:
    """The names that an attempt's notes have (`runner.execution.options.Note`)."""
    return {
        str(ast.literal_eval(node.args[0]))
        for path, tree in modules()
        if path.startswith(("runner/execution", "runner/service"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Note", "StepNote")
    }


def test_every_mode_and_every_state_of_the_disk_is_an_action() -> None:
    # The trap: the service tells of both by their own names, and one that is no action would end it.
    assert {mode.value for mode in Mode} | {f"disk_{disk}" for disk in Disk} <= set(Action)


def test_every_note_of_an_attempt_is_an_action() -> None:
    assert {Action.of_note(name).value for name in notes()} == notes()
    assert Action.of_note("whatever") is Action.NOTE


#: Told by a name that something else has: a note, a mode, the state of a disk.
NOTED = {
    "sandbox": set[str](),
    "runner": notes() | {"note"} | {mode.value for mode in Mode} | {f"disk_{disk}" for disk in Disk},
}


def test_the_manual_has_them_all() -> None:
    assert set(members("sandbox/logs.py", "Action")) == {a.value for a in KeeperAction}
    assert set(members("runner/logs.py", "Action")) == {a.value for a in Action}
    assert (ROOT / LOGS).read_text() == logs_page(), "write it anew: python -m tests.monitoring.pages"
