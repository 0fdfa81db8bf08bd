"""Scenarios: files that say what job GitLab hands out, what happens meanwhile, and what has to come of it.

{"about": "one sentence",
 "each": {"NAME": [VALUE, …]},        optional: one scenario for each value, put where "{NAME}" stands
 "together": true,                    optional: the jobs run at once instead of one after another
 "jobs": [{"job": …,                  what differs from `job.TEMPLATE`
           "origin": true,            optional: the job's sources come from `origin.py` in the sandbox
           "patience": SECONDS,          optional: that a hook waits for the runner, instead of its minutes
           "object_store": ADDRESS,      optional: where gitlab-runner is configured to have caches
           "spoiled": {"hook": NAME or STAGE, "with": SHELL, "times": MOST},
                                         optional: it does its work, and then this
           "actions": [{"when": {"log": TEXT} or {"stage": NAME}, "do": ACTION}, …],
           "expect": {"status": …, "reason": …, "exit_code": …, "log": […], "log_once": […], "not_in_log": […],
                      "stages": {NAME: [EXIT CODE, …]}, "ends_with": [NAME, …], "log_bytes": LEAST,
                      "ends_after": LEAST SECONDS, "within": {STAGE: MOST SECONDS}, "sandbox_lost": TEXT,
                      "same_sandbox": true}}, …]}

A stage that is to end has to end within `ENDED`, with `ends_after` not before that; `cleanup` within `CLEANED`. A job's
sandbox has to be there for the next one, or with `sandbox_lost` to be thrown away for a reason that has the text.
With `same_sandbox` the job has the one of the job before it.
"""

from __future__ import annotations

import asyncio
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from runner.gitlab import client
from tests.gitlab.manager import Config, Manager, Result, Status

FOLDER: Final = Path(__file__).parent / "scenarios"
ORIGIN: Final = Path(__file__).parent / "origin.py"
DEADLINE: Final = 150.0
ENDED: Final = 8.0
"""Seconds for a stage that is to end: the service's grace of 2 s, and what a busy machine takes beside it."""
CLEANED: Final = 5.0
"""Seconds for `cleanup`, which GitLab counts as the job's, on a busy machine. It waits for no sandbox."""
STATUSES: Final = {status.value: status for status in Status}

Actions = Mapping[str, Callable[[], None]]
"""What the surroundings can do, by name, as `remove the sandbox`: see `conftest.Installation`."""


@dataclass(frozen=True)
class Play:
    """One job of a scenario."""

    job: dict[str, Any]
    actions: list[dict[str, Any]]
    expect: dict[str, Any]
    spoiled: dict[str, Any]
    patience: float
    object_store: str


@dataclass(frozen=True)
class Scenario:
    """One file, or one value of a file's `each`."""

    name: str
    plays: tuple[Play, ...]
    together: bool

    def run(self, config: Config, actions: Actions, settle: Callable[[Result, str | None], None]) -> None:
        """Run every job and check it; `settle` waits, after each of them, until its sandbox is given back.

        It is told why the sandbox is lost with its job, None for one that is not.
        """
        if self.together:
            for play, result in zip(self.plays, asyncio.run(self._all(config, actions)), strict=True):
                settle(result, play.expect.get("sandbox_lost"))
                check(play.expect, result)
            return
        before: list[str] = []
        for play in self.plays:
            result = asyncio.run(_run(play, config, actions))
            settle(result, play.expect.get("sandbox_lost"))
            check(play.expect, result)
            if play.expect.get("same_sandbox"):
                assert result.sandboxes == before, "what is left in a sandbox can be seen only in the same one"
            before = result.sandboxes

    async def _all(self, config: Config, actions: Actions) -> list[Result]:
        return await asyncio.gather(*(_run(play, config, actions) for play in self.plays))


def load() -> Iterator[Scenario]:
    """Every scenario of the folder, in the order of names."""
    for file in sorted(FOLDER.glob("*.json")):
        text = file.read_text()
        for name, value in _each(json.loads(text)):
            document = json.loads(text.replace(f"{{{name}}}", value)) if name else json.loads(text)
            plays = tuple(_play(play) for play in document["jobs"])
            yield Scenario(f"{file.stem}@{value}" if name else file.stem, plays, document.get("together", False))


def _each(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, values in document.get("each", {"": [""]}).items():
        for value in values:
            yield name, str(value)


def _play(document: Mapping[str, Any]) -> Play:
    job = dict(document["job"])
    if document.get("origin"):
        job["hooks"] = [{"name": "pre_get_sources_script", "script": _start_of_origin()}]
    else:
        job["variables"] = [{"key": "GIT_STRATEGY", "value": "none"}, *job.get("variables", [])]
    job["variables"] = [_long(variable) for variable in job.get("variables", [])]
    actions, spoiled = list(document.get("actions", [])), dict(document.get("spoiled", {}))
    return Play(
        job, actions, dict(document["expect"]), spoiled, document.get("patience", 0.0), document.get("object_store", "")
    )


def _long(variable: dict[str, Any]) -> dict[str, Any]:
    """A value may be repeated, so that a file need not hold 300 KiB."""
    return {**variable, "value": variable["value"] * variable.pop("repeat", 1)}


def _start_of_origin() -> list[str]:
    """The server lives in the sandbox and no longer than the stage that reads from it."""
    program = f"cat > /tmp/origin.py <<'END_OF_ORIGIN'\n{ORIGIN.read_text()}END_OF_ORIGIN"
    start = (
        "python3 /tmp/origin.py /tmp/origin > /tmp/origin.log 2>&1 & until [ -e /tmp/origin/up ]; do sleep 0.02; done"
    )
    return [program, f"rm -rf /tmp/origin; {start}"]


async def _run(play: Play, config: Config, actions: Actions) -> Result:
    config = replace(config, object_store=play.object_store)
    config = _impatient(config, play.patience) if play.patience else config
    manager = Manager(_spoiled(config, **play.spoiled) if play.spoiled else config, play.job)
    for action in play.actions:
        _arm(manager, action["when"], _doing(manager, action["do"], actions))
    return await asyncio.wait_for(manager.run(), DEADLINE)


def _doing(manager: Manager, what: str, actions: Actions) -> Callable[[], None]:
    if what in STATUSES:
        return lambda: manager.status(STATUSES[what])
    return manager.terminate if what == "terminate the manager" else actions[what]


def _arm(manager: Manager, when: Mapping[str, str], do: Callable[[], None]) -> None:
    """Once, at the start of a stage, or when the log shows a text."""
    if "stage" in when:
        waiting = [when["stage"]]
        earlier = manager.on_stage

        def starting(stage: str) -> None:
            earlier(stage)
            if stage in waiting:
                waiting.remove(stage)
                do()

        manager.on_stage = starting
        return
    seen, text = bytearray(), when["log"].encode()

    def watch(data: bytes) -> None:
        had = text in seen
        seen.extend(data[: max(0, 1_000_000 - len(seen))])
        if text in seen and not had:
            do()

    manager.log.watchers.append(watch)


def check(expect: Mapping[str, Any], result: Result) -> None:
    """Compare what GitLab was told with what was expected; the log is shown where they differ."""
    told = {"status": result.status, "reason": result.reason, "exit_code": result.exit_code}
    wanted = {"status": expect["status"], "reason": expect.get("reason"), "exit_code": expect.get("exit_code")}
    wanted["exit_code"] = wanted["exit_code"] and int(wanted["exit_code"])  # text where it comes from `each`
    assert told == wanted, f"{result.message}\n{result.stages}\n{result.log[-6000:]}\n{result.admin_log}"
    for text in expect.get("log", ()):
        assert text in result.log, f"{text!r} is not in the log:\n{result.log[-6000:]}"
    for text in expect.get("log_once", ()):
        assert result.log.count(text) == 1, f"{text!r} is not in the log once:\n{result.log[-6000:]}"
    for text in expect.get("not_in_log", ()):
        assert text not in result.log + result.admin_log, f"{text!r} is in the log:\n{result.log[-6000:]}"
    for name, codes in expect.get("stages", {}).items():
        assert result.codes(name) == codes, f"{name}: {result.stages}\n{result.log[-6000:]}"
    if ends := expect.get("ends_with"):
        assert [stage.name for stage in result.stages][-len(ends) :] == ends, result.log[-6000:]
    assert result.log_bytes >= expect.get("log_bytes", 0)
    for stage in result.stages:
        most = {"cleanup": CLEANED, **expect.get("within", {})}.get(stage.name, math.inf)
        assert stage.took < most, f"{stage}\n{result.log[-6000:]}"
    for ending in [stage.ending for stage in result.stages if stage.ending is not None]:
        assert expect.get("ends_after", 0.0) <= ending < ENDED, f"{result.stages}\n{result.log[-6000:]}"


def _spoiled(config: Config, hook: str, times: int, **how: str) -> Config:
    """Hooks of which one works and then ends in another way, as one does whose connection broke at the last moment."""
    folder = Path(tempfile.mkdtemp(prefix="spoiled", dir=config.temp.parent))
    file, count = folder / "hooks", folder / "count"
    file.write_text(
        f'#!/bin/bash\n{shlex.join(config.hooks)} "$@" || exit\n[ "${{3-$1}}" = {hook} ] || exit 0\n'
        f'echo >> {count}; [ "$(wc -l < {count})" -gt {times} ] || {{ {how["with"]}; }}\n'
    )
    file.chmod(0o755)
    return replace(config, hooks=(str(file),))


def _impatient(config: Config, seconds: float) -> Config:
    """Hooks that wait for the runner for so long."""
    changed = f"client.PATIENCE = dict.fromkeys(client.PATIENCE, {seconds})"
    start = f"import posix, sys; sys.path.insert(0, {str(Path(client.__file__).parent)!r}); import client; {changed}"
    program = f"{start}; posix._exit(client.main(sys.argv[1:]))"
    return replace(config, hooks=(sys.executable, "-I", "-S", "-c", program))
