"""The job's logins to container registries, as a Docker configuration of its own in the sandbox.

Sent in a script over the connection's standard input, and kept in a folder below the home that is removed with
everything else of the job. A link makes it the user's own configuration: what the job writes there is what counts.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Final

from runner.gitlab.response import GitLabJob

VARIABLE: Final = "DOCKER_AUTH_CONFIG"
"""What a job gives itself, or gitlab-runner's configuration gives each, in the format of Docker's own file."""
LEFT_ALONE: Final = 3
"""The exit code of the script that `install` returns where it leaves a configuration alone that is not the runner's."""
LEFT_ALONE_REMARK: Final = (
    "WARNING: The sandbox's image has a Docker configuration of its own (~/.docker/config.json). It is left alone, and "
    "has none of the job's logins: a script that runs in the sandbox itself has to log in."
)
_TAKEN: Final = ("auths", "credHelpers")
"""What is taken of it. A `credsStore` would hide the logins that GitLab gives."""

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
    """Return the value of `VARIABLE`. `told` is gitlab-runner's, of all its sources; empty where a hook had none."""
    return told or job.variables.get(VARIABLE, "")


def configuration(job: GitLabJob, given: str) -> dict[str, object]:
    """Return the Docker configuration of a job: GitLab's logins, and before them those that `given` returned."""
    logins = {credential.registry: _login(credential.username, credential.password) for credential in job.credentials}
    own = _read(given)
    return {**own, "auths": {**logins, **own.get("auths", {})}}


def install(configuration: Mapping[str, object], folder: str, place: str) -> bytes:
    """Return a script that makes `folder` with a configuration, and has it found at `place`. It holds secrets.

    It exits with `LEFT_ALONE` where the sandbox's image has a configuration at that place: a sandbox in whose home
    something changed that is the image's is as good as broken.
    """
    # JSON with ASCII alone and without newlines: no line of it can be the one that ends the text.
    content = json.dumps(configuration)
    return _INSTALL.format(folder=folder, place=place, left_alone=LEFT_ALONE, content=content).encode()


def remark(given: str) -> str | None:
    """Return a sentence when what was given cannot be read, None otherwise."""
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
