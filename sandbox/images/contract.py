"""The contract for images built on ours, so that sandboxes made from them work. Pure: judges what was seen.

`docs/own-images.md` has the points for people; a test compares it with this table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from sandbox.errors import Fault, SandboxFault
from sandbox.text import one_line

if TYPE_CHECKING:
    from sandbox.engine import ImageFacts

LABEL = "sandbox-runner.image-contract"
VERSION = "1"
ENTRYPOINT = ("tini", "--", "sandbox-entrypoint")
TOOLS = (
    "bash", "sh", "cat", "cp", "rm", "tar", "gzip", "ps", "sudo", "git", "python3", "ssh", "rsync",
    "docker", "dockerd", "containerd", "runc", "iptables", "ip",
)  # fmt: skip
"""The programs that jobs, the runner and the keeper call by name."""
OLDEST_PYTHON = (3, 11)
_LONGEST = 200
_LOGIN_FAULTS = (Fault.LOGIN_REFUSED, Fault.HOST_KEY_CHANGED)


class Standing(StrEnum):
    """The result for one point. The values are stable: `--json` contains them."""

    KEPT = "kept"
    BROKEN = "broken"
    UNSEEN = "unseen"
    """Not looked at, because an earlier point is broken."""


class Stage(IntEnum):
    """How far a look must get to see something."""

    IMAGE, SSH, LOGIN, DOCKER = range(4)


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything seen of an image, and of one sandbox made from it."""

    image: ImageFacts
    keys: Sequence[str]
    """Files in the image that let somebody in, or that all sandboxes would share."""
    boot: SandboxFault | None = None
    """Why nobody could log in."""
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The answers of `probe.sh`, by name; empty when nobody could log in."""
    docker: SandboxFault | None = None
    """Why inner Docker could not be proven."""

    @property
    def stage(self) -> Stage:
        """How far the look got."""
        if self.boot:
            return Stage.SSH if self.boot.fault in _LOGIN_FAULTS else Stage.IMAGE
        return Stage.LOGIN if self.docker else Stage.DOCKER


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the contract."""

    name: str
    what: str
    fix: str
    problem: Callable[[Seen], str | None]
    """Return what is wrong, as the end of a sentence; None when the point is kept."""
    stage: Stage = Stage.IMAGE
    """Where the look must get to see it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result for one point, with the problem and its fix."""

    point: str
    standing: Standing
    what: str
    problem: str = ""
    fix: str = ""


def judge(seen: Seen) -> list[Finding]:
    """Judge the image on every point, in their order."""
    return [_judge(point, seen) for point in POINTS]


def _judge(point: Point, seen: Seen) -> Finding:
    if seen.stage < point.stage:
        return Finding(point.name, Standing.UNSEEN, point.what)
    problem = point.problem(seen)
    if problem is None:
        return Finding(point.name, Standing.KEPT, point.what)
    return Finding(point.name, Standing.BROKEN, point.what, one_line(problem)[:_LONGEST], point.fix)


def parse(answer: bytes) -> dict[str, list[str]]:
    """Parse the answers of `probe.sh`. They come from inside and may hold anything: other lines are kept as `noise`."""
    answers: dict[str, list[str]] = {"noise": []}
    for line in answer.decode(errors="replace").splitlines():
        name, tab, value = line.partition("\t")
        answers.setdefault(name if tab else "noise", []).append(value if tab else line)
    return answers


# -- the points -------------------------------------------------------------------------------------------------------


def _label(seen: Seen) -> str | None:
    found = seen.image.labels.get(LABEL)
    return None if found == VERSION else f"the label is {found!r}" if found else "it has no such label"


def _entrypoint(seen: Seen) -> str | None:
    found = (*seen.image.entrypoint, *seen.image.command)
    return None if found == ENTRYPOINT else f"it is {' '.join(found) or 'empty'!r}"


def _user(seen: Seen) -> str | None:
    return None if seen.image.user in ("", "0", "root", "0:0", "root:root") else f"it is {seen.image.user!r}"


def _port(seen: Seen) -> str | None:
    return None if "22/tcp" in seen.image.ports else f"it exposes {', '.join(seen.image.ports) or 'nothing'}"


def _stop_signal(seen: Seen) -> str | None:
    found = seen.image.stop_signal
    return None if found in ("", "SIGTERM", "15") else f"it is {found!r}"


def _environment(seen: Seen) -> str | None:
    bad = [name for name in seen.image.environment if name == "AUTHORIZED_KEYS" or name.startswith("SYSBOX_")]
    return f"it has {', '.join(bad)}" if bad else None


def _keys(seen: Seen) -> str | None:
    return f"it has {', '.join(seen.keys)}" if seen.keys else None


def _starts(seen: Seen) -> str | None:
    return str(seen.boot) if seen.boot and seen.boot.fault not in _LOGIN_FAULTS else None


def _login(seen: Seen) -> str | None:
    return str(seen.boot) if seen.boot else None


def _quiet(seen: Seen) -> str | None:
    return f"it said {seen.answers['noise'][0]!r}" if seen.answers["noise"] else None


def _account(seen: Seen) -> str | None:
    return _unless(_told(seen, "account") == "sandbox 1000 /home/sandbox", f"it is {_told(seen, 'account')!r}")


def _docker_group(seen: Seen) -> str | None:
    return _unless("docker" in _told(seen, "groups").split(), f"its groups are {_told(seen, 'groups')!r}")


def _sudo(seen: Seen) -> str | None:
    return _unless(_told(seen, "sudo") == "0", f"sudo answered {_told(seen, 'sudo')!r}")


def _python(seen: Seen) -> str | None:
    try:
        major, minor = map(int, _told(seen, "python").split())
    except ValueError:
        return f"python3 answered {_told(seen, 'python')!r}"
    return _unless((major, minor) >= OLDEST_PYTHON, f"it is {major}.{minor}")


def _tools(seen: Seen) -> str | None:
    missing = seen.answers.get("missing", [])
    return _unless(not missing and "end" in seen.answers, f"not found: {', '.join(missing) or 'the end of the answer'}")


def _mount(seen: Seen) -> str | None:
    return _unless(_told(seen, "mount") == "always", f"it is {_told(seen, 'mount')!r}")


def _docker(seen: Seen) -> str | None:
    return str(seen.docker) if seen.docker else None


def _brought(seen: Seen) -> str | None:
    unloaded = seen.answers.get("unloaded", [])
    return f"not loaded: {', '.join(unloaded)}" if unloaded else None


def _told(seen: Seen, name: str) -> str:
    return (seen.answers.get(name) or [""])[0]


def _unless(kept: bool, problem: str) -> str | None:
    return None if kept else problem


POINTS: Sequence[Point] = (
    Point(
        "label",
        f"has the label {LABEL}={VERSION}",
        "Build it FROM this project's sandbox image.",
        _label,
    ),
    Point(
        "entrypoint",
        f"starts with {' '.join(ENTRYPOINT)}",
        f"Leave ENTRYPOINT and CMD out of the Dockerfile, or end it with ENTRYPOINT {json.dumps(ENTRYPOINT)}.",
        _entrypoint,
    ),
    Point(
        "user",
        "starts as root",
        "End the Dockerfile with USER root.",
        _user,
    ),
    Point(
        "port",
        "exposes port 22",
        "Add EXPOSE 22 to the Dockerfile.",
        _port,
    ),
    Point(
        "stop-signal",
        "is stopped by TERM",
        "Leave STOPSIGNAL out of the Dockerfile.",
        _stop_signal,
    ),
    Point(
        "environment",
        "decides by its environment neither who gets in nor what sysbox does",
        "Leave those ENV lines out, and give such settings where a sandbox is started.",
        _environment,
    ),
    Point(
        "keys",
        "holds no host key and no authorized key",
        "Remove these files in the RUN line that makes them: whoever has the image would have them.",
        _keys,
    ),
    Point(
        "starts",
        "starts, and its sshd answers",
        "Its last words say why; `docker run` shows all of its log.",
        _starts,
    ),
    Point(
        "login",
        "lets in who was authorized, with the host key that it was given",
        "Leave /etc/ssh and sandbox-entrypoint as they are.",
        _login,
        Stage.SSH,
    ),
    Point(
        "quiet",
        "prints nothing of its own at a login",
        "Remove what prints from .bashrc and /etc/bash.bashrc: scp, rsync and jobs would read it.",
        _quiet,
        Stage.LOGIN,
    ),
    Point(
        "account",
        "has the user sandbox (1000) at home in /home/sandbox",
        "Leave that user as it is; add others beside it.",
        _account,
        Stage.LOGIN,
    ),
    Point(
        "docker-group",
        "lets that user use Docker",
        "Add it back: RUN usermod -aG docker sandbox.",
        _docker_group,
        Stage.LOGIN,
    ),
    Point(
        "sudo",
        "lets that user become root without a password",
        "Leave /etc/sudoers.d/sandbox as it is.",
        _sudo,
        Stage.LOGIN,
    ),
    Point(
        "python",
        f"has python3, {'.'.join(map(str, OLDEST_PYTHON))} or newer",
        "Put another Python beside Debian's, and leave /usr/bin/python3 first on PATH.",
        _python,
        Stage.LOGIN,
    ),
    Point(
        "tools",
        "has the tools that jobs, runner and keeper call",
        "Install them again, or leave PATH as it is.",
        _tools,
        Stage.LOGIN,
    ),
    Point(
        "mount",
        "gives sessions LIBMOUNT_FORCE_MOUNT2=always, which sysbox needs",
        "Leave the SetEnv line in /etc/ssh/sshd_config as it is, and add to it.",
        _mount,
        Stage.LOGIN,
    ),
    Point(
        "inner-docker",
        "has an inner Docker Engine that answers in time and is on overlay2",
        "Leave docker.io, containerd, runc and /etc/docker/daemon.json as they are; bring smaller images.",
        _docker,
        Stage.LOGIN,
    ),
    Point(
        "brought-images",
        "loads the inner images that it brings",
        "Make the files anew with `docker save`; the sandbox's log has Docker's own words.",
        _brought,
        Stage.DOCKER,
    ),
)
