"""Makes a throw-away sandbox, uses it, judges it as after a job and removes it, to see that the host can do it."""

import secrets
import time
from dataclasses import replace
from typing import Final

from sandbox import readiness
from sandbox.config import KeeperConfig
from sandbox.doctor.facts import Canary
from sandbox.engine import Engine
from sandbox.errors import EngineError, Fault, SandboxError, SandboxFault
from sandbox.keeper.builder import Builder, Built
from sandbox.report import Unknown
from sandbox.template import InstallationId, SandboxName

NOT_ASKED: Final = Unknown("This needs a throw-away sandbox: ask for one with --canary.")
_UNRECORDED: Final = frozenset({Fault.UNFREEZABLE, Fault.DAMAGED})
"""Faults of a proven sandbox that could not be frozen or recorded."""
_USE_DEADLINE: Final = 60.0
"""Seconds for a login with a container in it; inner Docker has booted by then."""


def try_one(config: KeeperConfig, profile_name: str, engine: Engine) -> Canary:
    """Make a sandbox of a profile, use it, and remove it in any case. Raises none of our errors."""
    name = SandboxName(InstallationId(secrets.token_hex(4)), 1)
    try:
        found = _try(name, profile_name, config, engine)
    except SandboxFault as fault:
        found = Canary(fault=fault.fault, complaint=str(fault))
    except SandboxError as error:
        found = Canary(fault=Fault.ENGINE_FAILED, complaint=str(error))
    finally:
        left = _removed(name, engine)
    return found if not left else replace(found, left=left, installation=name.installation)


def _try(name: SandboxName, profile_name: str, config: KeeperConfig, engine: Engine) -> Canary:
    """Do what the keeper does with each sandbox, in the keeper's own code: a host may fail at any of it."""
    builder = Builder(engine, config.network_range)
    try:
        built = builder.build(name, profile_name, config.profiles[profile_name], started=lambda _: None)
    except SandboxFault as fault:
        if fault.fault in _UNRECORDED:
            return Canary(inspection=str(fault))
        raise
    proof = _use(built)
    return Canary(proof.docker_version, proof.clock - time.time(), inspection=_inspected(builder, built))


def _use(built: Built) -> readiness.Proof:
    deadline = time.monotonic() + _USE_DEADLINE
    return readiness.prove(lambda: readiness.connect(built.address, deadline), built.identity, deadline, container=True)


def _inspected(builder: Builder, built: Built) -> str:
    """Return why the sandbox would not serve another job after this use; empty when it would."""
    try:
        builder.prove_after_job(built)
    except SandboxError as error:
        return str(error)
    return ""


def _removed(name: SandboxName, engine: Engine) -> str:
    try:
        engine.remove(name.installation)
    except EngineError as error:
        return str(error)
    return ""
