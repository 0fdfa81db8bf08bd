"""Looks at an image, and at one throw-away sandbox made from it as a keeper makes them."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from ipaddress import IPv4Network

from sandbox import host, readiness
from sandbox.engine import Engine
from sandbox.errors import Fault, SandboxFault
from sandbox.identity import Identity, new_identity
from sandbox.images.contract import TOOLS, Finding, Seen, judge, parse
from sandbox.maker import Maker
from sandbox.network import free_subnet
from sandbox.profile import Profile
from sandbox.template import ContainerSpec, InstallationId, SandboxName, container_spec

ANSWER_SECONDS = 30.0
NETWORK_RANGE = IPv4Network("10.213.0.0/16")
KEY_FOLDERS = ("/etc/ssh", "/etc/sandbox", "/var/lib/sandbox", "/root/.ssh", "/home/sandbox/.ssh")
"""Where a key in the image would take effect, or seem to."""

Say = Callable[[str], None]


def check(engine: Engine, image: str, runtime: str, say: Say) -> list[Finding]:
    """Judge `image` on every point of the contract; `say` hears of the progress.

    Raises `EngineError`, such as `ImageMissing` and `RuntimeMissing`, when the engine cannot be asked.
    """
    engine.check(runtime, image)
    say(f"looking at {image}")
    seen = Seen(engine.image(image), keys=())
    profile = Profile(image=image, runtime=runtime)
    with _created(engine, profile) as sandbox:
        seen = replace(seen, keys=_keys(engine, sandbox.container_id))
        say("starting a sandbox from it")
        try:
            engine.put_files(sandbox.container_id, sandbox.spec.files)
            engine.start(sandbox.container_id)
            with Maker(engine, NETWORK_RANGE).booting(sandbox.container_id, profile) as boot:
                seen = replace(seen, answers=_ask(boot.dial, sandbox.identity, boot.deadline))
        except SandboxFault as fault:
            return judge(replace(seen, boot=fault))
        say("asking its Docker Engine")
        try:
            readiness.prove(boot.dial, sandbox.identity, boot.deadline)
        except SandboxFault as fault:
            seen = replace(seen, docker=fault)
        # Again: the images that the image brings are there only once Docker is.
        deadline = max(boot.deadline, time.monotonic() + ANSWER_SECONDS)
        dial = partial(readiness.connect, boot.address, deadline)
        return judge(replace(seen, answers=_ask(dial, sandbox.identity, deadline)))


@dataclass(frozen=True, slots=True)
class _ThrowAway:
    """A sandbox for looking at its image, created and not started."""

    spec: ContainerSpec
    identity: Identity
    container_id: str


@contextmanager
def _created(engine: Engine, profile: Profile) -> Iterator[_ThrowAway]:
    """Create one in an installation of its own, without its given files; remove it in any case."""
    name = SandboxName(InstallationId(secrets.token_hex(4)), 1)
    identity = new_identity(str(name))
    subnet = free_subnet(NETWORK_RANGE, engine.taken_subnets(), secrets.randbelow(8192))
    spec = container_spec(name, "check", profile, identity, subnet, host.look())
    try:
        engine.create_network(spec)
        yield _ThrowAway(spec, identity, engine.create(replace(spec, files=())))
    finally:
        engine.remove(name.installation)


def _keys(engine: Engine, container_id: str) -> list[str]:
    """Return the image's key files. Call this before our own keys are put there."""
    found = [f"{folder}/{name}" for folder in KEY_FOLDERS for name in engine.files_in(container_id, folder)]
    return [path for path in found if _is_key(path.rpartition("/")[2])]


def _ask(dial: readiness.Dial, identity: Identity, deadline: float) -> dict[str, list[str]]:
    """Return the answers of `probe.sh` by the monotonic `deadline`. Raises `SandboxFault`."""
    script = f"TOOLS='{' '.join(TOOLS)}'\n" + files("sandbox.images").joinpath("probe.sh").read_text()
    answers = parse(readiness.run(dial, identity, script.encode(), deadline))
    if "begin" not in answers:
        raise SandboxFault(Fault.PROBE_FAILED, "A login worked, and its shell ran nothing.")
    return answers


def _is_key(name: str) -> bool:
    return name.startswith(("ssh_host_", "authorized_keys"))
