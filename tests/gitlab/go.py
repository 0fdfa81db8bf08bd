"""GitLab's answer as Go reads it and writes it again, as gitlab-runner does for JOB_RESPONSE_FILE.

A missing number becomes 0, a text empty, a list or a pointer null, and a structure appears with all its fields. Fields
that gitlab-runner does not know are dropped. The fields are those of its `Job` (earlier `JobResponse`), as far as
anything here uses them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

_IMAGE: Final[dict[str, Any]] = {
    "name": "",
    "executor_opts": {"docker": {"platform": "", "user": ""}, "kubernetes": {"user": ""}},
}
ZERO: Final[dict[str, Any]] = {
    "id": 0,
    "token": "",
    "allow_git_fetch": False,
    "job_info": {"name": "", "stage": "", "project_id": 0, "project_name": "", "project_full_path": "",
                 "namespace_id": 0, "root_namespace_id": 0, "organization_id": 0, "instance_id": "", "user_id": 0,
                 "pipeline_id": 0, "project_jobs_running_on_instance_runners_count": ""},
    "git_info": {"repo_url": "", "repo_object_format": "", "ref": "", "sha": "", "before_sha": "", "ref_type": "",
                 "refspecs": None, "depth": 0, "protected": None},
    "runner_info": {"timeout": 0, "runner_session_url": ""},
    "variables": None,
    "steps": None,
    "image": _IMAGE,
    "services": None,
    "artifacts": None,
    "cache": None,
    "credentials": None,
    "dependencies": None,
    "features": {"trace_sections": False, "token_mask_prefixes": None, "failure_reasons": None,
                 "two_phase_job_commit": False},
    "hooks": None,
}  # fmt: skip


def written_again(answer: Mapping[str, Any]) -> dict[str, Any]:
    """GitLab's answer as gitlab-runner passes it on. A null is as good as nothing."""
    response = _read(ZERO, answer)
    response["services"] = response["services"] and [_read(_IMAGE, service) for service in response["services"]]
    return response


def _read(zero: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(dict(zero))
    if zero is _IMAGE:  # the rest of an image is left out where it is empty
        found.update({key: value for key, value in given.items() if value})
    for key, value in given.items():
        if key not in zero or value is None:
            continue
        found[key] = _read(zero[key], value) if isinstance(zero[key], dict) and zero[key] else value
    return found
