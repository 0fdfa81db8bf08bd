"""What one stage of a GitLab job is: which script is run where, and what its outcome means to gitlab-runner. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Final

from runner import outcome as outcomes
from runner.gitlab.containers.inside import enter
from runner.gitlab.wire import BuildFailed, Done, End, SystemFailed
from runner.outcome import Killed, Outcome, ScriptFailed, Succeeded

_MAX_WHY: Final = 2000
"""Longest sentence that is kept about an end: it may quote a hostile sandbox."""

RESTORING: Final = "restore_cache"
ARCHIVING: Final = frozenset({"archive_cache", "archive_cache_on_failure"})
HELPED: Final = ARCHIVING | {
    RESTORING, "download_artifacts", "upload_artifacts_on_success", "upload_artifacts_on_failure",
}  # fmt: skip
"""The stage that looks for caches, those that make them, and all that call `gitlab-runner` in the sandbox."""

STAGES: Final = HELPED | {
    "prepare_script", "get_sources", "build_script", "after_script", "cleanup_file_variables",
}  # fmt: skip
"""gitlab-runner's stages, but for the steps of a job, which have names of their own."""

LAST: Final = "cleanup_file_variables"
"""What comes after it is the sandbox's own cleaning, which does not care whose a file is."""

_FOUND_BASH: Final = b"#!/usr/bin/env bash\n"
"""How gitlab-runner's scripts begin, and what does the same a millisecond sooner. Every sandbox has bash there."""
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
        """Whether it runs what the job's author wrote, and so in the job's container where there is one."""
        return self.name in ("build_script", "after_script") or self.name.startswith("step_")

    @property
    def has_the_users_hooks(self) -> bool:
        """Whether some of it is what the job's author wrote, as `hooks:pre_get_sources_script`."""
        return self.name == "get_sources"


def direct(script: bytes) -> bytes:
    """Return a script that is started without looking for bash first."""
    return _BASH + script.removeprefix(_FOUND_BASH) if script.startswith(_FOUND_BASH) else script


def reclaim(folder: str) -> bytes:
    """Return a script that makes everything in a folder the sandbox user's again. Links are not followed.

    What a job's containers left belongs to root, and gitlab-runner's own stages run as the sandbox's user.
    """
    return _RECLAIM.format(folder=shlex.quote(folder)).encode()


def end_of(outcome: Outcome) -> End:
    """Return what gitlab-runner is to hear. Only a script that came to an end of its own is the job's failure."""
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
    """Return a stage's name as a metric has it. A step's name, and one that we do not know, is anybody's."""
    if name in STAGES:
        return name
    return "step" if name.startswith("step_") else "other"


def end_label(end: End) -> str:
    """Return whose success or failure an end is, as a metric has it."""
    match end:
        case Done():
            return "done"
        case BuildFailed():
            return "failed"
        case SystemFailed():
            return "system_failed"


def to_text(end: End) -> str:
    """Return an end as it is noted."""
    match end:
        case Done():
            return "done"
        case BuildFailed(code):
            return f"failed {code}"
        case SystemFailed(why):
            return f"system {why}"


def from_text(text: str) -> End:
    """Return the end that `to_text` noted; one that cannot be read is a system failure."""
    kind, _, rest = text.partition(" ")
    if kind == "done":
        return Done()
    if kind == "failed" and rest.isdecimal():
        return BuildFailed(int(rest))
    return SystemFailed(rest or "How the stage ended cannot be read any more.")
