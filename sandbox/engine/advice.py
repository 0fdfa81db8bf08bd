"""Messages for an engine that lacks something: the cause and the next step. Pure text."""

from collections.abc import Mapping, Sequence
from typing import Any


def unreachable(error: Exception) -> str:
    """Say that nobody answers, or that we have no permission."""
    text = str(error)
    if "PermissionError" in text or "Permission denied" in text:
        return "No permission to use the Docker Engine's socket. Run this as root or as a member of the docker group."
    return (
        "No Docker Engine answers. Start it (systemctl start docker), set DOCKER_HOST to one that runs, "
        "or try `sandbox evaluation up` for a private one."
    )


def stale_socket() -> str:
    """Say that the engine was restarted and a mount still shows its old socket."""
    return (
        "The Docker Engine's socket that is mounted here was replaced by another one: the engine was restarted. "
        "Restart this container, so that the new socket is mounted."
    )


def no_local_socket(url: str) -> str:
    """Say that the engine is elsewhere, or the URL is no engine's."""
    return (
        f"DOCKER_HOST is {url}, and the Docker Engine must be on this host, at unix:///…: what runs in sandboxes is "
        "seen and ended from the host's side."
    )


def runtime_missing(runtime: str, registered: Sequence[str]) -> str:
    """Say that the engine does not know the runtime."""
    known = f"it knows {', '.join(registered)}"
    if runtime == "sysbox-runc":
        return (
            f"The runtime sysbox-runc is not registered with the Docker Engine ({known}). "
            "Install sysbox 0.7.1 or newer (https://github.com/nestybox/sysbox) and restart the engine; "
            "to evaluate without it, see docs/userns-runc.md."
        )
    return (
        f"The runtime {runtime} is not registered with the Docker Engine ({known}). "
        'Add it under "runtimes" in the engine\'s daemon.json, or name another runtime in the profile.'
    )


STORAGE_DRIVER = "overlay2"
"""The engine's storage driver, whose folders on the host are read after a job."""

STORAGE_FIX = (
    'Put "storage-driver": "overlay2" and "features": {"containerd-snapshotter": false} into the engine\'s '
    "daemon.json and restart it. Its images have to be built or pulled anew."
)


def storage_unfit(driver: str, containerd_store: bool) -> str:
    """Say why a job's leftovers cannot be read with this storage; goes with `STORAGE_FIX`."""
    store = " of containerd's image store" if containerd_store else ""
    return f"Its storage driver is {driver}{store}, and what a job left is read from overlay2's upper directories."


def image_missing(image: str) -> str:
    """Say that the engine does not have the image."""
    return f"The image {image} is not on the Docker Engine. Build it: sandbox images build."


def status_of(state: Mapping[str, Any]) -> str:
    """Describe a container's state in words, from the answer to `inspect`."""
    if state["Status"] != "exited":
        return str(state["Status"])
    killed = ", killed for want of memory" if state["OOMKilled"] else ""
    return f"exited with code {state['ExitCode']}{killed}"
