"""Plans the work in a job's sandbox for its `image:` and `services:`. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from runner.gitlab.containers import names
from runner.gitlab.containers.policy import ImagePolicy
from runner.gitlab.containers.program import program
from runner.gitlab.response import GitLabJob, Image

_NETWORK: Final = "gitlab-job"
_CONTAINER: Final = "gitlab-job"
END_CONTAINER: Final = program("end_container", {"container": _CONTAINER})
"""A script that ends the container of a job's image, and succeeds when nothing runs in it any more. Idempotent."""
_SHELL: Final = """\
for shell in /usr/local/bin/bash /usr/bin/bash /bin/bash /usr/local/bin/sh /usr/bin/sh /bin/sh /busybox/sh; do
    [ -x "$shell" ] && exec "$shell"
done
echo "The image has neither bash nor sh." >&2
exit 127
"""
"""Starts bash if the image has it, else sh, as the docker executor does."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The scripts that a job's containers need. They hold secrets, and are run like any script of the job."""

    prepare: bytes = field(repr=False)
    """Makes everything. Exits 0 on success, 1 for the job's own fault, or with another code for ours."""
    after_failure: bytes = field(repr=False)
    """Prints the services' logs; empty if there are no services."""
    _hosts: str
    _container: str | None
    _folders: tuple[str, ...]
    """The folders that belong to the container's user while it runs."""

    def enter(self, script: bytes, grace: float) -> bytes:
        """Return a script that runs `script` where the job's scripts run, and ends with its exit code.

        On TERM, every process in the container gets TERM, and `grace` seconds later KILL.
        """
        if self._container is None:
            return program("beside_services", {"script": script, "hosts": self._hosts})
        order = {"container": self._container, "folders": [*self._folders], "script": script, "grace": grace}
        return program("in_container", order)


def plan(job: GitLabJob, policy: ImagePolicy, workspace: str, logins: str, service_wait: float) -> Plan | None:
    """Return the plan for a job's containers; None when it has neither image nor services.

    `workspace` and `logins`, which holds a Docker configuration, are folders in the sandbox; the container has them at
    the same path. If its image has no Docker configuration, a link at the usual place leads to the job's.
    `service_wait`: seconds for all services together to answer.
    Raises BadJobError when the job asks for something that is impossible or not allowed by the policy.
    """
    if job.image is None and not job.services:
        return None
    services, ignored = _services(job, policy)
    folders = (workspace, logins)
    hosts = f"{logins}/hosts"
    order = {
        "network": _NETWORK,
        "workspace": workspace,
        "logins": logins,
        "services": services,
        "ignored": ignored,
        "wait": service_wait,
        "hosts": hosts,
        "container": job.image and _container(job.image, policy, folders),
    }
    return Plan(
        program("main", order),
        program("tell_all", {"services": services}) if services else b"",
        hosts,
        _CONTAINER if job.image else None,
        folders,
    )


def _container(image: Image, policy: ImagePolicy, folders: tuple[str, ...]) -> dict[str, object]:
    return {
        "name": _CONTAINER,
        "image": _image(image, policy),
        "command": ["sh", "-c", _SHELL],
        "folders": [*folders],
    }


def _services(job: GitLabJob, policy: ImagePolicy) -> tuple[list[dict[str, object]], list[str]]:
    """Return the services, and the images of those left out because all their names are taken, as in gitlab-runner."""
    kept = names.first_come(names.aliases(service.image.name, service.aliases) for service in job.services)
    claims = [*zip(job.services, kept, strict=True)]
    services: list[dict[str, object]] = [
        {
            "container": f"gitlab-service-{number}",
            "image": _image(service.image, policy),
            "aliases": [*aliases],
            "command": None if service.command is None else [*service.command],
            "environment": {**job.service_variables, **service.variables},
        }
        for number, (service, aliases) in enumerate(claims)
        if aliases
    ]
    return services, [service.image.name for service, aliases in claims if not aliases]


def _image(image: Image, policy: ImagePolicy) -> dict[str, object]:
    return {
        "name": policy.choose(image.name),
        # For Docker, an empty list means the image's own entrypoint, and one empty word means none.
        "entrypoint": None if image.entrypoint is None else [*image.entrypoint] or [""],
        "user": image.user or "",
        "platform": image.platform or "",
        "pull": [pull.value for pull in policy.pulls(image.pull_policies)],
    }
