"""The job's logins to container registries, as a Docker configuration of its own in the sandbox.

Sent in a script over the connection's standard input, and kept in a folder below the home that is removed with
everything else of the job.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Final

from runner.gitlab.response import GitLabJob

#: What a job gives itself, in the format of Docker's configuration file.
VARIABLE: Final = "DOCKER_AUTH_CONFIG"
#: What is taken of it. A `credsStore` would hide the logins that GitLab gives.
_TAKEN: Final = ("auths", "credHelpers")

_INSTALL: Final = """\
#!/bin/sh
umask 077
rm -rf -- "{folder}" && mkdir -p -- "{folder}" && cat >"{folder}/config.json" <<'END-OF-CONFIGURATION'
{content}
END-OF-CONFIGURATION
"""


def configuration(job: GitLabJob) -> dict[str, object]:
    """Return the Docker configuration of a job: GitLab's logins, and the job's own before them."""
    logins = {credential.registry: _login(credential.username, credential.password) for credential in job.credentials}
    given = _given(job.variables.get(VARIABLE, ""))
    return {**given, "auths": {**logins, **given.get("auths", {})}}


def install(job: GitLabJob, folder: str) -> bytes:
    """Return a script that makes `folder`, for DOCKER_CONFIG, with the job's logins. It holds secrets."""
    # JSON with ASCII alone and without newlines: no line of it can be the one that ends the text.
    return _INSTALL.format(folder=folder, content=json.dumps(configuration(job))).encode()


def remark(job: GitLabJob) -> str | None:
    """Return a sentence when the job's own configuration cannot be read, None otherwise."""
    text = job.variables.get(VARIABLE, "")
    if not text.strip() or _given(text):
        return None
    return f"The variable {VARIABLE} is no Docker configuration with {' or '.join(_TAKEN)}: it is left out."


def _login(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode(errors="surrogatepass")).decode()}


def _given(text: str) -> Mapping[str, dict[str, object]]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    return {name: document[name] for name in _TAKEN if isinstance(document.get(name), dict)}
