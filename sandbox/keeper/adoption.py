"""Takes over the sandboxes of an earlier life of the keeper, if they are proven to be the same."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from sandbox.engine import Engine, Owned
from sandbox.errors import EngineError, Fault, SandboxFault
from sandbox.keeper.builder import Builder, Built
from sandbox.logs import Action, Events
from sandbox.pool import Sandbox
from sandbox.profile import Profile
from sandbox.template import InstallationId

events = Events("keeper")

_AT_ONCE: Final = 16
ENGINE_DEADLINE = 30.0
"""Seconds to retry the engine when it fails about a sandbox with a job."""
_ENGINE_PAUSE = 0.5

Record = tuple[Sandbox, Built]


def adoptable(
    engine: Engine,
    builder: Builder,
    installation: InstallationId,
    profiles: Mapping[str, Profile],
    records: Sequence[Record],
) -> list[Record]:
    """Return the recorded sandboxes that can be taken over. The log says why each other one cannot.

    A lent sandbox is proven by its label on this very container, the host's boot, its runtime, and a login with the
    pinned host key. An idle one is inspected later, as after a job. Raises `EngineError`.
    """
    owned = {found.id: found for found in engine.owned(installation)}

    def proven(record: Record) -> bool:
        sandbox, built = record
        try:
            _check_same(sandbox, owned.get(built.container_id))
            _check_profile(sandbox, profiles)
            if sandbox.lease is not None:
                _prove(builder, built)
        except (SandboxFault, EngineError) as error:
            events.warning(Action.NOT_TAKEN_OVER, f"not taken over: {error}", sandbox=sandbox.name)
            return False
        whose = f"attempt {sandbox.lease.attempt}" if sandbox.lease else "idle"
        events.info(Action.TAKEN_OVER, f"taken over, {whose}", sandbox=sandbox.name)
        return True

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="adopt") as workers:
        verdicts = workers.map(proven, records)
    return [record for record, good in zip(records, verdicts, strict=True) if good]


def _prove(builder: Builder, built: Built) -> None:
    """Retry for a while, so that a stumbling engine ends no job, and a dead engine does not block the start."""
    deadline = time.monotonic() + ENGINE_DEADLINE
    while True:
        try:
            return builder.adopt(built)
        except EngineError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_ENGINE_PAUSE)


def _check_same(sandbox: Sandbox, found: Owned | None) -> None:
    if found is None or found.name != sandbox.name:
        raise SandboxFault(Fault.GONE, "Its container is gone.")


def _check_profile(sandbox: Sandbox, profiles: Mapping[str, Profile]) -> None:
    """Check that the profile exists. A running job may end under its old profile; an idle sandbox is checked later."""
    if sandbox.profile not in profiles:
        raise SandboxFault(Fault.RECREATE_POLICY, f"The configuration has no profile {sandbox.profile} any more.")
