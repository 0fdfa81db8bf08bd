"""A throw-away sandbox: made, logged in to, used and removed, to see that the host can do it."""

import secrets
import time
from typing import Final

from sandbox import readiness
from sandbox.config import KeeperConfig
from sandbox.doctor.facts import Canary
from sandbox.engine import Engine
from sandbox.errors import EngineError, Fault, SandboxError, SandboxFault
from sandbox.identity import new_identity
from sandbox.maker import Maker
from sandbox.report import Unknown
from sandbox.template import InstallationId, SandboxName

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
    profile, identity = config.profiles[profile_name], new_identity(str(name))
    maker = Maker(engine, config.network_range)
    container = maker.make(name, profile_name, profile, identity, started=lambda _: None)
    with maker.booting(container, profile) as boot:
        proof = readiness.prove(boot.dial, identity, boot.deadline, container=True)
    return Canary(docker_version=proof.docker_version, clock=proof.clock - time.time())


def _removed(name: SandboxName, engine: Engine) -> str:
    try:
        engine.remove(name.installation)
    except EngineError as error:
        return str(error)
    return ""
