"""The stages of a GitLab job: their scripts, and what their outcomes mean to gitlab-runner. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Final

from runner import outcome as outcomes
from runner.gitlab.containers.inside import enter
from runner.gitlab.wire import BuildFailed, Done, End, SystemFailed
from runner.outcome import Killed, Outcome, ScriptFailed, Succeeded

_MAX_WHY: Final = 2000
"""The longest sentence that is kept about an end, in characters: it may quote a hostile sandbox."""

RESTORING: Final = "restore_cache"
ARCHIVING: Final = frozenset({"archive_cache", "archive_cache_on_failure"})
HELPED: Final = ARCHIVING | {
    RESTORING, "download_artifacts", "upload_artifacts_on_success", "upload_artifacts_on_failure",
}  # fmt: skip
"""The stage that restores caches, the stages that make them, and all stages that call `gitlab-runner`."""

STAGES: Final = HELPED | {
    "prepare_script", "get_sources", "build_script", "after_script", "cleanup_file_variables",
}  # fmt: skip
"""gitlab-runner's stages, except the steps of a job, which have names of their own."""

LAST: Final = "cleanup_file_variables"
"""The last stage. The sandbox's own cleaning follows, which works whoever owns a file."""

_FOUND_BASH: Final = b"#!/usr/bin/env bash\n"
"""The first line of gitlab-runner's scripts, and one that starts a millisecond sooner. Every sandbox has bash there."""
_BASH: Final = b"#!/bin/bash\n"

_RECLAIM: Final = """\
[ -d {folder} ] || exit 0
if [ -n "$(find {folder} -xdev ! -uid "$(id -u)" -print -quit 2>&1)" ]; then
  sudo -n find {folder} -xdev ! -uid "$(id -u)" -exec chown -h "$(id -u):$(id -g)" {{}} +
fi
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One of gitlab-runner's stages."""

    name: str
    script: bytes = field(repr=False)

    @property
    def is_the_users(self) -> bool:
        """Return whether the stage runs the job author's script, and so runs in the job's container if there is one."""
        return self.name in ("build_script", "after_script") or self.name.startswith("step_")

    @property
    def has_the_users_hooks(self) -> bool:
        """Return whether parts of the stage are the job author's, such as `hooks:pre_get_sources_script`."""
        return self.name == "get_sources"


def direct(script: bytes) -> bytes:
    """Return the script with a first line that does not search for bash."""
    return _BASH + script.removeprefix(_FOUND_BASH) if script.startswith(_FOUND_BASH) else script


def reclaim(folder: str) -> bytes:
    """Return a script that gives everything in a folder back to the sandbox's user. It follows no links.

    A job's containers leave files of root, and gitlab-runner's own stages run as the sandbox's user.
    """
    return _RECLAIM.format(folder=shlex.quote(folder)).encode()


def end_of(outcome: Outcome) -> End:
    """Return the end to report to gitlab-runner. Only a script that ended by itself is the job's failure."""
    match outcome:
        case Succeeded():
            return Done()
        case ScriptFailed(code):
            return BuildFailed(code)
        case Killed(enter.OURS):
            return SystemFailed("The sandbox could not run the script. The lines above say why.")
        case Killed(signal):
            return BuildFailed(128 + signal)
    return SystemFailed(outcomes.sentence(outcome)[:_MAX_WHY])


def stage_label(name: str) -> str:
    """Return the label of a stage in metrics. Steps and unknown stages have no labels of their own: users name them."""
    if name in STAGES:
        return name
    return "step" if name.startswith("step_") else "other"


def end_label(end: End) -> str:
    """Return the label of an end in metrics: whose success or failure it is."""
    match end:
        case Done():
            return "done"
        case BuildFailed():
            return "failed"
        case SystemFailed():
            return "system_failed"


def to_text(end: End) -> str:
    """Return an end as text for the record."""
    match end:
        case Done():
            return "done"
        case BuildFailed(code):
            return f"failed {code}"
        case SystemFailed(why):
            return f"system {why}"


def from_text(text: str) -> End:
    """Return the end that `to_text` wrote; unreadable text is a system failure."""
    kind, _, rest = text.partition(" ")
    if kind == "done":
        return Done()
    if kind == "failed" and rest.isdecimal():
        return BuildFailed(int(rest))
    return SystemFailed(rest or "How the stage ended cannot be read any more.")
