"""Records for tests."""

import time
from ipaddress import IPv4Address

from sandbox.adhoc.life import NAMED
from sandbox.adhoc.record import Access, Record
from sandbox.adhoc.store import Store, network_namespace
from sandbox.identity import new_identity
from sandbox.network import policy
from sandbox.profile import InnerDocker, Profile


def record(store: Store, name: str = "mine", generation: int = 1, **changes: object) -> Record:
    """One that is ready."""
    identity = new_identity(name)
    profile, now = Profile(), time.time()
    made = Record(
        name=name,
        installation=store.installation,
        generation=generation,
        profile=profile,
        docker=InnerDocker.EAGER,
        policy=policy(profile, {}, {}, [IPv4Address("10.0.0.53")]),
        life=NAMED,
        made=now,
        ends=now + NAMED.ttl,
        idle=NAMED.idle,
        network=network_namespace(),
        container="c" * 64,
        access=Access(address="10.213.0.2", host_key=identity.host.public, client_key=identity.client.private),
    )
    return made.model_copy(update=changes)
