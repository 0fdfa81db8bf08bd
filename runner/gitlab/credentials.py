"""The job's logins to container registries, as its own Docker configuration in the sandbox.

The configuration is sent in a script over standard input, and kept in a folder below the home that is removed with
everything else of the job. A link makes it the user's own configuration, so the job's changes to it count.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Final

from runner.gitlab.response import GitLabJob

VARIABLE: Final = "DOCKER_AUTH_CONFIG"
"""Set by a job for itself or by gitlab-runner's configuration for each job, in the format of Docker's own file."""
LEFT_ALONE: Final = 3
"""The exit code of the script from `install` when it leaves a configuration alone that is not the runner's."""
LEFT_ALONE_REMARK: Final = (
    "WARNING: The sandbox's image has a Docker configuration of its own (~/.docker/config.json). It is left alone, and "
    "has none of the job's logins: a script that runs in the sandbox itself has to log in."
)
_TAKEN: Final = ("auths", "credHelpers")
"""The parts that are taken from it. A `credsStore` would hide GitLab's logins."""

_INSTALL: Final = """\
#!/bin/sh
umask 077
rm -rf -- "{folder}" && mkdir -p -- "{folder}" && cat >"{folder}/config.json" <<'END-OF-CONFIGURATION' || exit 1
{content}
END-OF-CONFIGURATION
for name in "" /config.json; do
    [ "$(readlink -- "{place}$name")" = "{folder}$name" ] && exit
    [ -e "{place}$name" ] || exec ln -sfn -- "{folder}$name" "{place}$name"
done
exit {left_alone}
"""


def given(job: GitLabJob, told: str) -> str:
    """Return the value of `VARIABLE`. `told` is gitlab-runner's value from all its sources; empty if it has none."""
    return told or job.variables.get(VARIABLE, "")


def configuration(job: GitLabJob, given: str) -> dict[str, object]:
    """Return the Docker configuration of a job: GitLab's logins, overridden by those in `given`."""
    logins = {credential.registry: _login(credential.username, credential.password) for credential in job.credentials}
    own = _read(given)
    return {**own, "auths": {**logins, **own.get("auths", {})}}


def install(configuration: Mapping[str, object], folder: str, place: str) -> bytes:
    """Return a script that makes `folder` with a configuration, and links it at `place`. The script holds secrets.

    It exits with `LEFT_ALONE` if the sandbox's image has a configuration at that place: a sandbox counts as broken once
    a file of the image has changed in its home.
    """
    # JSON in pure ASCII without newlines: no line of it can be the line that ends the text.
    content = json.dumps(configuration)
    return _INSTALL.format(folder=folder, place=place, left_alone=LEFT_ALONE, content=content).encode()


def remark(given: str) -> str | None:
    """Return a sentence when the given value cannot be read, None otherwise."""
    if not given.strip() or _read(given):
        return None
    return f"The variable {VARIABLE} is no Docker configuration with {' or '.join(_TAKEN)}: it is left out."


def _login(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode(errors="surrogatepass")).decode()}


def _read(text: str) -> Mapping[str, dict[str, object]]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    return {name: document[name] for name in _TAKEN if isinstance(document.get(name), dict)}
