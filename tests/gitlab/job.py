"""A job as GitLab hands it out, and the variables that gitlab-runner makes of it.

A job file holds only the fields that matter to it: all others come from `TEMPLATE`. The names are those of the answer
to `POST /api/v4/jobs/request`, which gitlab-runner writes to JOB_RESPONSE_FILE.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.gitlab.go import written_again

Response = dict[str, Any]

SHA: Final = "4735d1eb75eff9300fa5d213002c71ced7d60031"
"""The commit that `origin.py` makes of its project."""
_VARIABLE: Final = {"public": True, "masked": False, "file": False, "raw": False}
_STEP: Final = {"timeout": 3600, "when": "on_success", "allow_failure": False}
TEMPLATE: Final[Response] = {
    "token": "glcbt-64_simulated-token",
    "allow_git_fetch": True,
    "job_info": {"name": "build", "stage": "test", "project_id": 42, "project_name": "app",
                 "project_full_path": "group/app", "pipeline_id": 7, "namespace_id": 3, "root_namespace_id": 3},
    "git_info": {"repo_url": "http://gitlab-ci-token:secret@127.0.0.1:8999/group/app.git", "ref": "main",
                 "sha": SHA, "before_sha": "0" * 40, "ref_type": "branch", "depth": 20, "protected": True,
                 "refspecs": ["+refs/heads/main:refs/remotes/origin/main"]},
    "runner_info": {"timeout": 3600, "runner_session_url": ""},
    "predefined": {},  # of the simulator: what GitLab says in its own variables otherwise; null for one not sent
    "variables": [],
    "steps": [],
    "image": {"name": ""},
    "services": [],
    "artifacts": [],
    "cache": [],
    "credentials": [],
    "dependencies": [],
    "features": {"trace_sections": True, "failure_reasons": []},
}  # fmt: skip
_ids = itertools.count(1000)


def complete(given: Mapping[str, Any]) -> Response:
    """A whole response from one that names only what matters to it; each gets an id of its own.

    A field that is null is one that GitLab did not send: gitlab-runner makes Go's zero value of it.
    """
    merged = _merge(copy.deepcopy(TEMPLATE), given)
    merged.setdefault("id", next(_ids))
    response = written_again(merged)
    predefined = [
        {"key": "CI_JOB_ID", "value": str(response["id"])},
        {"key": "CI_JOB_TOKEN", "value": response["token"], "public": False, "masked": True},
        {"key": "CI_PROJECT_ID", "value": str(response["job_info"]["project_id"])},
        {"key": "CI_PROJECT_PATH", "value": response["job_info"]["project_full_path"]},
        {"key": "CI_COMMIT_REF_NAME", "value": response["git_info"]["ref"]},
        {"key": "CI_COMMIT_REF_PROTECTED", "value": str(response["git_info"]["protected"] is True).lower()},
        {"key": "CI", "value": "true"},
        {"key": "GITLAB_CI", "value": "true"},
    ]
    own = [
        {**variable, "value": value}
        for variable in predefined
        if (value := merged["predefined"].get(variable["key"], variable["value"])) is not None
    ]
    response["variables"] = [{**_VARIABLE, **variable} for variable in (*own, *(response["variables"] or ()))]
    response["steps"] = response["steps"] and [{**_STEP, **step} for step in response["steps"]]
    return response


def _merge(base: Response, more: Mapping[str, Any]) -> Response:
    """Objects are merged, everything else is replaced."""
    for key, value in more.items():
        inner = base.get(key)
        base[key] = _merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return base


@dataclass(frozen=True)
class Folders:
    """Where a job lives in its environment, as config_exec's answer decides."""

    builds: str
    cache: str
    project: str

    @property
    def build(self) -> str:
        return f"{self.builds}/{self.project}"

    @property
    def tmp(self) -> str:
        """Beside the build: file variables and the GITLAB_ENV file."""
        return f"{self.build}.tmp"

    @property
    def env_file(self) -> str:
        return f"{self.tmp}/gitlab_runner_env"

    def cache_file(self, key: str) -> str:
        return f"{self.cache}/{self.project}/{key}/cache.zip"


class Variables:
    """All variables of a job in gitlab-runner's order, where the last of a name wins.

    In another one's value, a file variable stands for the path that the scripts give it (`Get` in
    `common/spec/variables.go`); its own value stays what is in the file.
    """

    def __init__(self, response: Response, folders: Folders | None) -> None:
        own = _of_the_runner(response, folders)
        temp = f"{folders.build if folders else ''}.tmp"
        after = (_plain("CI_SHARED_ENVIRONMENT", "true"), _plain("RUNNER_TEMP_PROJECT_DIR", temp))
        found: dict[str, dict[str, Any]] = {}
        for variable in (*own, *response["variables"], *after):
            found[variable["key"]] = dict(variable)
        values = {key: f"{temp}/{key}" if one["file"] else str(one["value"]) for key, one in found.items()}
        for variable in found.values():
            variable["value"] = values[variable["key"]] if variable["raw"] else _expand(variable["value"], values)
        self._found = found

    def values(self) -> list[dict[str, Any]]:
        return list(self._found.values())

    def get(self, key: str, default: str = "") -> str:
        return str(self._found[key]["value"]) if key in self._found else default

    def set(self, key: str, value: str) -> None:
        self._found[key] = _plain(key, value)

    def masked(self) -> list[str]:
        return [str(variable["value"]) for variable in self.values() if variable["masked"] and variable["value"]]


def _of_the_runner(response: Response, folders: Folders | None) -> list[dict[str, Any]]:
    """What comes before the job's own variables, which may shadow it."""
    image = response["image"].get("name")
    return [
        *([_plain("CI_JOB_IMAGE", image)] if image else []),
        *([_plain("CI_BUILDS_DIR", folders.builds), _plain("CI_PROJECT_DIR", folders.build)] if folders else []),
        _plain("CI_CONCURRENT_ID", "0"),
        _plain("CI_SERVER", "yes"),
        _plain("CI_JOB_STATUS", "running"),
        _plain("CI_JOB_TIMEOUT", str(response["runner_info"]["timeout"])),
        _plain("FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY", "true"),
    ]


def _plain(key: str, value: str) -> dict[str, Any]:
    return {**_VARIABLE, "key": key, "value": value}


def _expand(value: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda found: values.get(found[1] or found[2], ""), str(value))
