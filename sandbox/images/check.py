"""Looks at an image, and at one throw-away sandbox made from it as a keeper makes them."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from ipaddress import IPv4Network

from sandbox import host, readiness
from sandbox.engine import Engine
from sandbox.errors import Fault, SandboxFault
from sandbox.identity import Identity, new_identity
from sandbox.images.contract import TOOLS, Finding, Seen, judge, parse
from sandbox.network import free_subnet
from sandbox.profile import Profile
from sandbox.template import ContainerSpec, InstallationId, SandboxName, container_spec

READY_SECONDS = 120.0
"""From start to proven, as long as a keeper waits."""
ANSWER_SECONDS = 30.0
NETWORK_RANGE = IPv4Network("10.213.0.0/16")
KEY_FOLDERS = ("/etc/ssh", "/etc/sandbox", "/var/lib/sandbox", "/root/.ssh", "/home/sandbox/.ssh")
"""Where a key in the image would count, or would be taken for one that does."""

Say = Callable[[str], None]


def check(engine: Engine, image: str, runtime: str, say: Say) -> list[Finding]:
    """How `image` stands on every point of the contract; `say` is told what is being done.

    Raises `EngineError` when the engine cannot be asked, `ImageMissing` and `RuntimeMissing` among them.
    """
    engine.check(runtime, image)
    say(f"looking at {image}")
    seen = Seen(engine.image(image), keys=())
    with _created(engine, image, runtime) as sandbox:
        seen = replace(seen, keys=sandbox.keys())
        say("starting a sandbox from it")
        try:
            seen = replace(seen, answers=sandbox.answers())
        except SandboxFault as fault:
            return judge(replace(seen, boot=fault))
        say("asking its Docker Engine")
        try:
            sandbox.prove_docker()
        except SandboxFault as fault:
            seen = replace(seen, docker=fault)
        # Once more: the images that it brings are there as soon as Docker is.
        return judge(replace(seen, answers=sandbox.ask()))


@contextmanager
def _created(engine: Engine, image: str, runtime: str) -> Iterator["_ThrowAway"]:
    """A container of an installation of its own, not started; removed in the end, whatever happens."""
    name = SandboxName(InstallationId(secrets.token_hex(4)), 1)
    identity = new_identity(str(name))
    subnet = free_subnet(NETWORK_RANGE, engine.taken_subnets(), secrets.randbelow(8192))
    spec = container_spec(name, "check", Profile(image=image, runtime=runtime), identity, subnet, host.look())
    try:
        engine.create_network(spec)
        yield _ThrowAway(engine, spec, identity, engine.create(replace(spec, files=())))
    finally:
        engine.remove(name.installation)


@dataclass
class _ThrowAway:
    """One sandbox for looking at its image."""

    engine: Engine
    spec: ContainerSpec
    identity: Identity
    container_id: str
    deadline: float = 0.0

    def keys(self) -> list[str]:
        """Key files that are in the image. They are looked for before our own are put there."""
        found = [
            f"{folder}/{name}" for folder in KEY_FOLDERS for name in self.engine.files_in(self.container_id, folder)
        ]
        return [path for path in found if _is_key(path.rpartition("/")[2])]

    def answers(self) -> dict[str, list[str]]:
        """Start it, and ask it. Raises `SandboxFault` with its last words when it does not start or let us in."""
        self.engine.put_files(self.container_id, self.spec.files)
        self.engine.start(self.container_id)
        self.deadline = time.monotonic() + READY_SECONDS
        try:
            return self.ask()
        except SandboxFault as fault:
            words = self.engine.last_words(self.container_id)
            raise SandboxFault(fault.fault, f"{fault} Its last words: {words}" if words else str(fault)) from fault

    def ask(self) -> dict[str, list[str]]:
        """What `probe.sh` tells. Raises `SandboxFault`."""
        script = f"TOOLS='{' '.join(TOOLS)}'\n" + files("sandbox.images").joinpath("probe.sh").read_text()
        deadline = max(self.deadline, time.monotonic() + ANSWER_SECONDS)
        answers = parse(readiness.run(self._dialled(deadline), self.identity, script.encode(), deadline))
        if "begin" not in answers:
            raise SandboxFault(Fault.PROBE_FAILED, "A login worked, and its shell ran nothing.")
        return answers

    def prove_docker(self) -> None:
        """Raises `SandboxFault` unless inner Docker is up before the deadline, and as it should be."""
        readiness.prove(self._dialled(self.deadline), self.identity, self.deadline)

    def _dialled(self, deadline: float) -> readiness.Dial:
        return lambda: readiness.connect(self._address(), deadline, self._still_runs)

    def _still_runs(self) -> None:
        self._address()

    def _address(self) -> str:
        facts = self.engine.facts(self.container_id)
        if not facts.running or facts.address is None:
            raise SandboxFault(Fault.STOPPED, f"Its container is not running: {facts.status}.")
        return facts.address


def _is_key(name: str) -> bool:
    return name.startswith(("ssh_host_", "authorized_keys"))
