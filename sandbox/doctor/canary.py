"""A throw-away sandbox: made, logged in to, used and removed, to see that the host can do it."""

import secrets
import time
from typing import Final

from sandbox import host, readiness
from sandbox.config import KeeperConfig
from sandbox.doctor.checks import GREETING
from sandbox.doctor.facts import Canary, Unknown
from sandbox.engine import Engine, NetworkMissing
from sandbox.errors import EngineError, Fault, SandboxError, SandboxFault
from sandbox.identity import new_identity
from sandbox.network import free_subnet
from sandbox.profile import Profile
from sandbox.template import ContainerSpec, InstallationId, SandboxName, container_spec

#: Seconds for it to boot, to be logged in to and to run a container.
DEADLINE: Final = 120.0

NOT_ASKED: Final = Unknown("This needs a throw-away sandbox: ask for one with --canary.")


def try_one(config: KeeperConfig, profile_name: str, engine: Engine) -> Canary:
    """Make a sandbox of a profile, use it, and remove it whatever happens. Never raises an error of ours."""
    name = SandboxName(InstallationId(secrets.token_hex(4)), 1)
    try:
        found = _use(name, profile_name, config, engine)
    except SandboxFault as fault:
        found = Canary(fault=fault.fault, complaint=str(fault))
    except SandboxError as error:
        found = Canary(fault=Fault.ENGINE_FAILED, complaint=str(error))
    finally:
        left = _removed(name, engine)
    return found if not left else Canary(fault=found.fault, complaint=found.complaint, left=left)


def _use(name: SandboxName, profile_name: str, config: KeeperConfig, engine: Engine) -> Canary:
    profile = config.profiles[profile_name]
    identity = new_identity(str(name))
    subnet = free_subnet(config.network_range, engine.taken_subnets(), secrets.randbelow(1 << 16))
    container = _create(engine, container_spec(name, profile_name, profile, identity, subnet, host.look()))
    engine.start(container)
    deadline = time.monotonic() + DEADLINE
    address = _running(engine, container, profile)
    try:
        proof = readiness.prove(
            lambda: readiness.connect(address, deadline, lambda: _check_runs(engine, container, profile)),
            identity,
            deadline,
            greeting=GREETING,
        )
    except SandboxFault as fault:
        words = engine.last_words(container)
        raise SandboxFault(fault.fault, f"{fault} Its last words: {words}" if words else str(fault)) from fault
    return Canary(docker_version=proof.docker_version, clock=proof.clock - time.time(), printed=proof.printed)


def _create(engine: Engine, spec: ContainerSpec) -> str:
    engine.check(spec.runtime, spec.image)
    engine.create_network(spec)
    try:
        return engine.create(spec)
    except NetworkMissing as error:
        raise EngineError("The engine lost the network that it had just made.") from error


def _check_runs(engine: Engine, container: str, profile: Profile) -> None:
    _running(engine, container, profile)


def _running(engine: Engine, container: str, profile: Profile) -> str:
    facts = engine.facts(container)
    if facts.runtime != profile.runtime:
        raise SandboxFault(Fault.WRONG_RUNTIME, f"Its container reports the runtime {facts.runtime}.")
    if not facts.running or facts.address is None:
        words = engine.last_words(container)
        raise SandboxFault(Fault.STOPPED, f"Its container is not running: {facts.status}. Its last words: {words}")
    return facts.address


def _removed(name: SandboxName, engine: Engine) -> str:
    try:
        engine.remove(name.installation)
    except EngineError as error:
        return str(error)
    return ""
