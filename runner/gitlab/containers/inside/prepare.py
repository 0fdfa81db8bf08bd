"""Gets the images, makes the job's network, starts its services, and makes the container for its scripts.

Exits 0 on success, 1 when the job asks for something impossible (a retry cannot help), 2 for any other error.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from runner.gitlab.containers.inside import commands, engine, logins, services

OK, USERS_FAULT, OURS = 0, 1, 2

_HOPELESS = (
    "not found", "manifest unknown", "no matching manifest", "denied", "unauthorized", "authentication required",
    "no basic auth credentials", "invalid reference format", "repository does not exist", "repository name must",
)  # fmt: skip
"""Answers of Docker and of registries after which a retry cannot help."""


class JobError(Exception):
    """The job asks for something impossible. The text is a sentence."""


def main(order: dict[str, Any]) -> int:
    """Prepare the job's containers, and return the exit code."""
    try:
        _prepare(order)
    except JobError as error:
        print(f"ERROR: {error}", flush=True)
        return USERS_FAULT
    except Exception as error:  # noqa: BLE001 - Python's own exit code would blame the job
        print(f"ERROR: The sandbox's Docker could not do it: {str(error) or type(error).__name__}", flush=True)
        return OURS
    return OK


def _prepare(order: dict[str, Any]) -> None:
    network, container, started = order["network"], order["container"], order["services"]
    os.environ["DOCKER_CONFIG"] = order["logins"]  # for pulls: the user may have another configuration
    # Docker would make a missing folder before it mounts it, owned by root.
    Path(order["workspace"]).mkdir(parents=True, exist_ok=True)
    _make_network(network)
    for name in order["ignored"]:
        print(f"WARNING: Service {name} is already created. Ignoring.", flush=True)
    for service in started:
        print(f"Starting service {service['image']['name']} ...", flush=True)
        if services.is_engine(service["image"]["name"]):
            print(
                "The sandbox has a Docker Engine: without this service and DOCKER_HOST, the job uses that.", flush=True
            )
        get_image(service["image"])
        _create(service["container"], services.configuration(service, order))
        _start_service(service)
    if container:
        print(f"Using image {container['image']['name']} ...", flush=True)
        get_image(container["image"])
        _create(container["name"], _configuration(container, network))
        _complete(container)
        logins.link(container["name"], order["logins"])
    services.wait(started, order["wait"])
    if not container:
        services.write_hosts(started, network, order["hosts"])


def _make_network(name: str) -> None:
    try:
        engine.call("POST", "/networks/create", {"Name": name, "CheckDuplicate": True})
    except engine.Failed as error:
        if error.status != 409:  # an earlier prepare made it
            raise


def get_image(image: dict[str, Any]) -> None:
    """Get an image into the sandbox's Docker, by the first of its pull policies that works. Raises JobError."""
    name, why = image["name"], ""
    for policy in image["pull"]:
        try:
            there = policy != "always" and engine.has_image(name)
        except engine.Failed as error:
            raise JobError(f"The image {name} cannot be had: {error}.") from None
        if there:
            return
        why = f"it is not in this sandbox, and its pull policy is {policy}" if policy == "never" else _pull(image)
        if not why:
            return
        print(f"WARNING: The image {name} cannot be had with pull policy {policy}: {why}.", flush=True)
    text = f"The image {name} cannot be had: {why}."
    if image["pull"][-1] == "never" or any(sign in why.lower() for sign in _HOPELESS):
        raise JobError(f"{text} Correct its name, or the registry's login in DOCKER_AUTH_CONFIG.")
    raise OSError(text)


def _pull(image: dict[str, Any]) -> str:
    """Pull an image, within the stage's own deadline. Returns why that failed; empty on success."""
    platform = ["--platform", image["platform"]] if image["platform"] else []
    command = ["docker", "pull", "--quiet", *platform, "--", image["name"]]
    print(f"Pulling image {image['name']} ...", flush=True)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    said = " ".join(done.stderr.split()).removeprefix("Error response from daemon: ").rstrip(".")
    return "" if done.returncode == 0 else said or f"docker pull exited with {done.returncode}"


def _create(name: str, configuration: dict[str, Any]) -> None:
    engine.remove_container(name)
    query = {"name": name} | ({"platform": configuration["Platform"]} if configuration["Platform"] else {})
    try:
        engine.call("POST", "/containers/create", configuration, **query)
    except engine.Failed as error:
        if error.status in {400, 404}:
            raise JobError(f"The container of {configuration['Image']} cannot be made: {error}.") from None
        raise


def _start_service(service: dict[str, Any]) -> None:
    """Start a service. If it cannot start, print so and go on: the job may not need it."""
    try:
        engine.call("POST", engine.container(service["container"], "/start"))
    except engine.Failed as error:
        print(f"WARNING: The service {service['image']['name']} did not start: {error}.", flush=True)


def _configuration(container: dict[str, Any], network: str) -> dict[str, Any]:
    image = container["image"]
    binds = [f"{path}:{path}" for path in container["folders"]]
    binds += [f"{engine.SOCKET}:{engine.SOCKET}", *commands.binds()]
    return {
        "Image": image["name"],
        "Platform": image["platform"],
        "Entrypoint": image["entrypoint"],
        "User": image["user"],
        "Cmd": container["command"],
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {
            "NetworkMode": network,
            "Binds": binds,
            "GroupAdd": [str(Path(engine.SOCKET).stat().st_gid)],
        },
    }


def _complete(container: dict[str, Any]) -> None:
    """Check that the container has a shell, and give it a Docker CLI."""
    name = container["name"]
    if not commands.find(name, "sh"):  # an image with bash has sh too
        raise JobError(
            f"The image {container['image']['name']} has neither bash nor sh, which a job's script needs. Use another "
            "image, or its variant with a shell."
        )
    if not commands.find(name, "docker"):
        commands.install(name)
